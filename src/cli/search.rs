//! `scenerank search`.

use std::path::{Path, PathBuf};

use clap::Args;
use scenerank::data::query_graph::{Statement, graph_file, query_graph, read_query_graphs};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::data::sentence::{Lexicon, Sentence};
use scenerank::data::vocabulary::Vocabulary;
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::EmbeddingsFile;
use scenerank::evaluation::measure::Measure;
use scenerank::files::npy::{read_npy, write_npy};
use scenerank::files::origin::Origin;
use scenerank::files::outputs::{Kind, Output, check_outputs};
use scenerank::files::text::for_each_line;
use scenerank::run::{Run, TrainedModel};
use scenerank::terminal::{excerpt, visible};
use scenerank::{Error, Result};
use serde::Serialize;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = r#"Examples:
  scenerank search runs/paper --image 2317468 -k 8
  scenerank search runs/paper --graph '[["man", "throwing", "frisbee"]]'
  generate | scenerank search runs/paper --graph - --split all
  scenerank embed runs/paper --out all.npy --format npy-f16
  scenerank search runs/paper --graph query.json --embeddings all.npy
  scenerank search runs/paper --text "a man riding a horse on the beach"
  scenerank search runs/paper --queries queries.jsonl --embeddings all.npy
  scenerank embed runs/paper --graphs my_graphs.json --out mine.npy
  scenerank search runs/paper --text "two dogs" --embeddings mine.npy"#;

/// Find the images nearest to an image, to a scene graph or to a sentence.
///
/// Images are ranked by the cosine of their embedding and that of the query. A query graph is a JSON list of
/// relationships, each a list of three names: subject, predicate, object. Names come from the data
/// (`inspect --vocabulary`). The same name means the same object; man and man#2 are two men.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct SearchArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Query with the image that has this Visual Genome id. The image itself is left out of the result.
    #[arg(long, value_name = "ID", required_unless_present_any = ["graph", "text", "queries"])]
    image: Option<u64>,
    /// Query with a graph: the JSON itself, such as '[["man", "throwing", "frisbee"]]', a file with it, or - for standard
    /// input. Each list is subject, predicate and object, or one object alone.
    #[arg(long, value_name = "JSON", conflicts_with = "image")]
    graph: Option<String>,
    /// Query with a sentence, such as "a man riding a horse on the beach". The graph that was understood is printed, and the words
    /// that were not.
    #[arg(long, value_name = "SENTENCE", conflicts_with_all = ["image", "graph"])]
    text: Option<String>,
    /// Many queries at once: a text file with one graph in each line, as --graph takes it, or a .npy file of embeddings,
    /// [queries, width]. The rows to search are read once for all of them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "graph", "text", "query_out"])]
    queries: Option<PathBuf>,
    /// Number of images to find.
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Images to search [default: all, or those of --embeddings].
    #[arg(long, value_enum)]
    split: Option<Split>,
    /// Embeddings of the images to search, written by `embed`, also of graphs that the run never saw; otherwise they are
    /// computed. A second file beside it names its model, its data and its images. The file is mapped into memory and not loaded, so it may
    /// hold millions of images.
    #[arg(long, value_name = "NPY")]
    embeddings: Option<PathBuf>,
    /// Search --embeddings of unknown origin, or of another model or data. Its rows are those of --split or of --ids.
    #[arg(long, requires = "embeddings")]
    any_origin: bool,
    /// Ids of the images in --embeddings, one per line, as written by `embed --ids`. Needed with --any-origin if
    /// they are not those of --split, such as another collection embedded by this model.
    #[arg(long, value_name = "TXT", requires = "embeddings", conflicts_with = "split")]
    ids: Option<PathBuf>,
    /// Comparison of the query and the rows of --any-origin.
    #[arg(long, value_enum, default_value_t, requires = "any_origin")]
    measure: Measure,
    /// Write the embedding of the query to this .npy file, [1, width], to search with another program.
    #[arg(long, value_name = "NPY")]
    query_out: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found<'a> {
    image_id: u64,
    /// File of the image, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_file: Option<&'a str>,
    /// COCO id; `None` for an image that is not in the run's data. Such an image has no captions here.
    coco_id: Option<u64>,
    #[serde(flatten)]
    score: Score,
    /// Similarity to the captions of the query image; `None` for a graph.
    caption_similarity: Option<f32>,
    captions: Vec<&'a str>,
}

/// Answer to a sentence.
#[derive(Serialize)]
struct Answer<'a> {
    /// What was understood, as statements of a query.
    graph: Vec<Statement>,
    not_understood: &'a [String],
    images: &'a [Found<'a>],
}

/// Answer to one of many queries.
#[derive(Serialize)]
struct Answers<'a> {
    /// Number of the query, from 1.
    query: usize,
    images: Vec<Found<'a>>,
}

/// Comparison of the query with the image.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Score {
    Cosine(f32),
    InnerProduct(f32),
}

/// Rows to search.
struct Index {
    rows: Rows,
    /// Image id of each row.
    ids: Vec<u64>,
    /// `[rows]` file of each row's image; empty if the files are not known.
    files: Vec<String>,
}

enum Rows {
    Computed(Vec<f32>),
    File(EmbeddingsFile),
}

/// What answers the query.
enum Opened {
    /// The run with its data.
    Run(Box<Run>),
    /// The model alone: rows of a file of graphs need no data.
    Model(Box<TrainedModel>),
}

impl Opened {
    fn model(&self) -> &TrainedModel {
        match self {
            Opened::Run(run) => &run.model,
            Opened::Model(model) => model,
        }
    }

    fn run(&self) -> Option<&Run> {
        match self {
            Opened::Run(run) => Some(run),
            Opened::Model(_) => None,
        }
    }

    fn inputs(&self) -> Vec<&Path> {
        match self {
            Opened::Run(run) => run.inputs(),
            Opened::Model(model) => vec![model.path()],
        }
    }
}

impl SearchArguments {
    pub fn run(self) -> Result<()> {
        // The origin of --embeddings decides whether the data is needed.
        let origin = match &self.embeddings {
            Some(path) if !self.any_origin => Origin::read_beside(path)?,
            _ => None,
        };
        let opened = match origin.as_ref().is_some_and(|origin| origin.of_graphs) {
            true => Opened::Model(Box::new(self.run.open_model()?)),
            false => Opened::Run(Box::new(self.run.open()?)),
        };
        let (model, dataset) = (opened.model(), opened.run().map(|run| &run.dataset));
        if let Some(path) = &self.queries {
            return self.search_many(&opened, origin, path);
        }
        let query_image = self.image.map(|id| self.find_image(id, dataset)).transpose()?;
        let understood = self.text.as_ref().map(|text| understand(text, model.vocabulary())).transpose()?;
        let query = match (&self.graph, &understood, query_image) {
            (Some(given), _, _) => model.embed(&[query_graph(given, model.vocabulary())?.view()])?,
            (_, Some(sentence), _) => {
                let graph = sentence.graph.augmented(model.vocabulary());
                model.embed(&[graph.view()])?
            }
            (None, None, Some((dataset, image))) => {
                dataset.verify(image..image + 1)?;
                model.embed(&[dataset.graph(image)])?
            }
            (None, None, None) => unreachable!("the argument parser requires one of the three"),
        };
        // The query is used only if the data was not changed while it was read.
        dataset.map_or(Ok(()), Dataset::check_unchanged)?;
        if let Some(path) = &self.query_out {
            let given = [&self.embeddings, &self.ids].into_iter().flatten().map(PathBuf::as_path);
            let graph = self.graph.as_deref().and_then(graph_file);
            let inputs: Vec<&Path> = opened.inputs().into_iter().chain(given).chain(graph).collect();
            check_outputs(&[Output { option: "--query-out", path, kind: Kind::NPY }], &inputs)?;
            write_npy(path, &query, model.width())?;
        }
        let index = self.index(&opened, origin)?;
        // Searches for additional rows, because the query image finds its own rows.
        let wanted = self.k as usize;
        let k = wanted + index.ids.iter().filter(|&&id| Some(id) == self.image).count();
        let nearest = match &index.rows {
            Rows::Computed(values) => model.nearest(&query, values, k)?,
            Rows::File(file) => {
                let nearest = model.nearest_stored(&query, file.rows(), k)?;
                file.check_unchanged()?;
                nearest
            }
        };
        // Only an image as query has captions to compare with.
        let similarity = match (query_image, opened.run()) {
            (Some((_, query)), Some(run)) => Some((query, run)),
            _ => None,
        };
        let found: Vec<Found> = nearest
            .into_iter()
            .filter(|&(row, _)| Some(index.ids[row]) != self.image)
            .take(wanted)
            .map(|(row, score)| {
                self.found(dataset, &index, (row, score), |image| {
                    similarity.map(|(query, run)| similarity_of(run, query, image)).transpose()
                })
            })
            .collect::<Result<_>>()?;
        self.print(model, understood.as_ref(), &found);
        Ok(())
    }

    /// Answers all queries of a file.
    fn search_many(&self, opened: &Opened, origin: Option<Origin>, path: &Path) -> Result<()> {
        let (model, dataset) = (opened.model(), opened.run().map(|run| &run.dataset));
        let queries = read_queries(path, model)?;
        let index = self.index(opened, origin)?;
        let nearest = match &index.rows {
            Rows::Computed(values) => model.nearest_many(&queries, values, self.k as usize)?,
            Rows::File(file) => {
                let nearest = model.nearest_stored_many(&queries, file.rows(), self.k as usize)?;
                file.check_unchanged()?;
                nearest
            }
        };
        let answers = nearest.into_iter().zip(1..).map(|(nearest, query)| {
            let images = nearest.into_iter().map(|found| self.found(dataset, &index, found, |_| Ok(None)));
            Ok(Answers { query, images: images.collect::<Result<_>>()? })
        });
        let answers: Vec<Answers> = answers.collect::<Result<_>>()?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&answers).expect("plain fields"));
            return Ok(());
        }
        for Answers { query, images } in &answers {
            println!("query {query}");
            images.iter().enumerate().for_each(|(rank, found)| print(rank + 1, found));
        }
        Ok(())
    }

    /// A row that was found, with its score. `similarity` compares the captions of its image with the query's.
    fn found<'a>(
        &self,
        dataset: Option<&'a Dataset>,
        index: &'a Index,
        (row, score): (usize, f32),
        similarity: impl FnOnce(usize) -> Result<Option<f32>>,
    ) -> Result<Found<'a>> {
        let image_id = index.ids[row];
        let image = dataset.and_then(|dataset| Some((dataset, dataset.find_image(image_id)?)));
        if let Some((dataset, image)) = image {
            dataset.verify(image..image + 1)?;
        }
        Ok(Found {
            image_id,
            image_file: index.files.get(row).map(String::as_str),
            coco_id: image.map(|(dataset, image)| dataset.coco_id(image)),
            score: match self.measure {
                Measure::Cosine => Score::Cosine(score),
                Measure::InnerProduct => Score::InnerProduct(score),
            },
            caption_similarity: match image {
                Some((_, image)) => similarity(image)?,
                None => None,
            },
            captions: image.map_or(Vec::new(), |(dataset, image)| dataset.captions(image).collect()),
        })
    }

    fn print(&self, model: &TrainedModel, understood: Option<&Sentence>, found: &[Found]) {
        match (self.json, understood) {
            (true, None) => println!("{}", serde_json::to_string_pretty(found).expect("plain fields")),
            (true, Some(sentence)) => {
                let answer = Answer {
                    graph: sentence.statements(model.vocabulary()),
                    not_understood: &sentence.not_understood,
                    images: found,
                };
                println!("{}", serde_json::to_string_pretty(&answer).expect("plain fields"));
            }
            (false, _) => {
                if let Some(sentence) = understood {
                    print!("{}", sentence.text(model.vocabulary()));
                }
                found.iter().enumerate().for_each(|(rank, found)| print(rank + 1, found));
            }
        }
    }

    /// The image with this id.
    fn find_image<'a>(&self, id: u64, dataset: Option<&'a Dataset>) -> Result<(&'a Dataset, usize)> {
        let Some(dataset) = dataset else {
            let problem = "the rows of --embeddings are graphs, not images of the run's data";
            return Err(Error::argument("--image", problem, "query with --graph or --text"));
        };
        let image = dataset.find_image(id).ok_or_else(|| {
            let problem = format!("{}: there is no image {id}", dataset.path().display());
            Error::argument("--image", problem, "use an id that `scenerank embed --ids` lists")
        })?;
        Ok((dataset, image))
    }

    fn index(&self, opened: &Opened, origin: Option<Origin>) -> Result<Index> {
        let split = self.split.unwrap_or(Split::All);
        let ids_of = |run: &Run| run.dataset.split(split).map(|image| run.dataset.image_id(image)).collect();
        let of_split = || opened.run().map_or(Vec::new(), ids_of);
        let Some(path) = &self.embeddings else {
            let run = opened.run().expect("only rows from a file need no data");
            let (rows, ids) = (Rows::Computed(run.embed_split(split)?), ids_of(run));
            return Ok(Index { rows, ids, files: Vec::new() });
        };
        let given = self.ids.as_deref().map(read_ids).transpose()?;
        let (file, ids, files) = if self.any_origin {
            let file = EmbeddingsFile::open(path)?.prepared(self.measure);
            (file, given.unwrap_or_else(of_split), Vec::new())
        } else {
            let expected = given.or_else(|| self.split.map(|_| of_split()));
            let Origin { image_ids, image_files, .. } = known_rows(path, opened, origin, expected)?;
            (EmbeddingsFile::open(path)?, image_ids, image_files)
        };
        let width = opened.model().width();
        let (shape, expected) = ((file.rows().len(), file.rows().width()), (ids.len(), width));
        if shape != expected {
            return Err(Error::invalid(
                path,
                "shape",
                format!("[{}, {}], expected {expected:?}", shape.0, shape.1),
                match self.ids {
                    Some(_) => "give the ids that `scenerank embed --ids` wrote with it",
                    None => "write it with `scenerank embed` and the same --split, or give its --ids",
                },
            ));
        }
        Ok(Index { rows: Rows::File(file), ids, files })
    }
}

/// Similarity of the captions of two images.
fn similarity_of(run: &Run, query: usize, image: usize) -> Result<f32> {
    Ok(run.similarity_of([query..query + 1, image..image + 1])?.get(query, image))
}

/// Checks the origin of a file that `embed` wrote, which must be of this model, of graphs or of this data, and of the `expected`
/// images, if these are given.
fn known_rows(
    path: &Path,
    opened: &Opened,
    origin: Option<Origin>,
    expected: Option<Vec<u64>>,
) -> Result<Origin> {
    let remedy = "write it with `scenerank embed` from this run, or search it as it is with --any-origin";
    let Some(origin) = origin else {
        let problem =
            format!("{} is missing, which tells its model and its images", Origin::beside(path).display());
        return Err(Error::invalid(path, "origin", problem, remedy));
    };
    let is_of_data = |run: &Run| origin.data == run.dataset.fingerprint_digits();
    let problem = if origin.model != opened.model().checkpoint.model_id() {
        "is of another model, or of another checkpoint of this run"
    } else if !opened.run().is_none_or(is_of_data) {
        "is of other data"
    } else if expected.is_some_and(|expected| expected != origin.image_ids) {
        "is of other images than those of --split or --ids"
    } else {
        return Ok(origin);
    };
    Err(Error::invalid(path, "origin", problem, remedy))
}

/// Embeddings of the queries in a file, `[queries, D]`.
fn read_queries(path: &Path, model: &TrainedModel) -> Result<Vec<f32>> {
    if path.extension().is_none_or(|extension| extension != "npy") {
        let graphs = read_query_graphs(path, model.vocabulary())?;
        return model.embed(&graphs.iter().map(SceneGraphBuf::view).collect::<Vec<_>>());
    }
    let matrix = read_npy(path)?;
    if matrix.width == model.width() {
        return Ok(matrix.values);
    }
    let problem = format!("[{}, {}], the width of the run is {}", matrix.rows, matrix.width, model.width());
    Err(Error::invalid(
        path,
        "shape",
        problem,
        "write it with `scenerank embed` or `search --query-out` of this run",
    ))
}

/// The graph that a sentence describes.
fn understand(text: &str, vocabulary: &Vocabulary) -> Result<Sentence> {
    let sentence = Lexicon::new(vocabulary).understand(text);
    if sentence.graph.objects.is_empty() {
        let problem = format!("\"{}\" names no object that the run knows", excerpt(text));
        let remedy = format!("name objects such as {}", vocabulary.some_objects());
        return Err(Error::argument("--text", problem, remedy));
    }
    Ok(sentence)
}

/// Reads one id per line.
fn read_ids(path: &Path) -> Result<Vec<u64>> {
    const MOST_LINE_BYTES: usize = 256;
    let mut ids = Vec::new();
    for_each_line(path, MOST_LINE_BYTES, |number, line| {
        let id = line.trim().parse().map_err(|_| {
            let problem = format!("\"{}\" is not an image id", excerpt(line));
            Error::invalid(path, format!("line {number}"), problem, "write one whole number per line")
        })?;
        ids.push(id);
        Ok(())
    })?;
    Ok(ids)
}

fn print(rank: usize, found: &Found) {
    let similarity =
        found.caption_similarity.map_or(String::new(), |s| format!(", caption similarity {s:.3}"));
    let coco = found.coco_id.map_or(String::new(), |id| format!(" (coco {id})"));
    let score = match found.score {
        Score::Cosine(cosine) => format!("cosine {cosine:.4}"),
        Score::InnerProduct(product) => format!("inner product {product:.4}"),
    };
    let file = found.image_file.map_or(String::new(), |file| format!(" {}", visible(file)));
    println!("{rank}. image {}{file}{coco}: {score}{similarity}", found.image_id);
    for caption in &found.captions {
        println!("     {}", visible(caption.trim()));
    }
}
