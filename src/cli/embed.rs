//! `scenerank embed`.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use scenerank::data::Split;
use scenerank::data::new_graphs::{GraphReading, NewGraphCounts};
use scenerank::files::arrow::{ArrowStream, write_arrow};
use scenerank::files::atomic_file::write_atomically;
use scenerank::files::npy::{write_npy, write_npy_half};
use scenerank::files::origin::Origin;
use scenerank::files::outputs::{Kind, Output, check_outputs};
use scenerank::run::{FileRows, TrainedModel};
use scenerank::terminal::excerpt;
use scenerank::{Error, Result};

use super::graph_file::{GraphFileArguments, left_out};
use super::run_arguments::RunArguments;

const EXAMPLES: &str = "\
Examples:
  scenerank embed runs/paper --out all.npy --ids all.txt
  scenerank embed runs/paper --split test --out test.npy \\
      --caption-vectors captions.npy
  scenerank embed runs/paper --out all.arrow
  scenerank embed runs/paper --rows 0..10000 --out part-0.npy
  scenerank embed runs/paper --graphs my_graphs.json --out mine.npy
  zcat my.jsonl.gz | scenerank embed runs/paper --graphs - --out my.arrows
  scenerank embed runs/paper --graphs my_graphs.arrows --out my.arrows
  scenerank embed runs/paper --graphs custom_prediction.json \\
      --data-info custom_data_info.json --min-object-score 0.3 \\
      --out mine.npy";

/// File format of the embeddings.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A .npy file, [images, width], in single precision.
    Npy,
    /// A .npy file in half precision, half as large.
    NpyF16,
    /// An Arrow IPC file (Feather 2): image_id (u64), split (string), embedding (fixed-size list of f32).
    Arrow,
    /// An Arrow IPC stream of the same columns, for --graphs. Its memory does not grow with the number of graphs.
    ArrowStream,
}

/// Write the embeddings of images, one row of unit length per image.
///
/// The images are those of the run's data, or with --graphs those of a file of graphs, which the run need not have seen: the
/// data file is not read then. Objects and relationships of names that the run does not know are left out and counted.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct EmbedArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Embed the graphs of this file, or of standard input if it is `-`: Visual Genome's scene_graphs.json, a GQA file, lines of
    /// {"image_id": 7, "objects": ["man", "horse"], "relationships": [[0, "riding", 1]]}, an Arrow IPC stream or file, a list of graphs
    /// in the format of `search --graph`, or predictions with --data-info. Columns in Arrow: image_id (integer), objects (list of
    /// names), and relationships (list of structs subject, predicate, object) or subject, predicate and object (lists). Subjects and
    /// objects are positions in objects, from 0, or names.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["split", "rows", "caption_vectors"])]
    graphs: Option<PathBuf>,
    #[command(flatten)]
    graph_file: GraphFileArguments,
    /// File to write, or `-` for an Arrow stream on standard output. Beside a .npy file, FILE.json tells its model, its data and the
    /// ids of its rows.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File format [default: arrow if the file ends in .arrow, .feather or .ipc, arrow-stream for .arrows and `-`, else npy].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Images to embed.
    #[arg(long, value_enum, default_value_t = Split::All)]
    split: Split,
    /// Embed only these rows of the images: A..B begins at row A, from 0, and ends before row B.
    #[arg(long, value_name = "A..B", value_parser = rows)]
    rows: Option<Range<usize>>,
    /// Write the ids of the rows to this text file, one per line: Visual Genome ids, or the numbers of the graphs in a list.
    #[arg(long, value_name = "TXT")]
    ids: Option<PathBuf>,
    /// Write the images' caption vectors to this .npy file, in the same order.
    #[arg(long, value_name = "NPY")]
    caption_vectors: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Rows to be written.
struct Rows<'a> {
    origin: Origin,
    /// `[rows]` split of each row; empty where the rows are of no split.
    splits: Vec<&'a str>,
    /// `[rows, D]` embeddings.
    values: Vec<f32>,
    width: usize,
}

impl EmbedArguments {
    /// The format asked for, or the one that the file's ending names.
    fn format(&self) -> Format {
        let ending = self.out.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        self.format.unwrap_or(match ending.as_deref() {
            Some("arrow" | "feather" | "ipc") => Format::Arrow,
            Some("arrows") => Format::ArrowStream,
            None if self.to_standard_output() => Format::ArrowStream,
            _ => Format::Npy,
        })
    }

    fn to_standard_output(&self) -> bool {
        self.out == Path::new("-")
    }

    pub fn run(self) -> Result<()> {
        let streams = matches!(self.format(), Format::ArrowStream);
        if self.to_standard_output() && !streams {
            return Err(Error::argument("--out", "is -", "give a file, or --format arrow-stream"));
        }
        if streams && self.graphs.is_none() {
            let problem = "is a stream, which is written from --graphs only";
            return Err(Error::argument(
                "--out",
                problem,
                "give --graphs, or a file ending in .arrow or .npy",
            ));
        }
        if streams && self.ids.is_some() {
            return Err(Error::argument("--ids", "is not written with a stream", "take its column image_id"));
        }
        if self.to_standard_output() && self.json {
            return Err(Error::argument("--json", "needs standard output too", "write the rows to a file"));
        }
        match &self.graphs {
            Some(graphs) if streams => self.stream_graphs(graphs),
            Some(graphs) => self.embed_graphs(graphs),
            None => self.embed_images(),
        }
    }

    fn embed_images(&self) -> Result<()> {
        if self.graph_file.reading().predictions.is_some() {
            let problem = "names the images and classes of --graphs, which is not given";
            return Err(Error::argument("--data-info", problem, "give custom_prediction.json with --graphs"));
        }
        let run = self.run.open()?;
        let (dataset, width) = (&run.dataset, run.width());
        let images = self.images(dataset.split(self.split))?;
        self.check_outputs(&run.inputs())?;
        let parts = Split::PARTS.map(|part| (part.to_string(), dataset.split(part)));
        let split_of = |image| parts.iter().find(|(_, part)| part.contains(&image));
        let splits =
            images.clone().map(|image| split_of(image).expect("an image is of one split").0.as_str());
        let (origin, splits) = (run.origin(images.clone()), splits.collect());
        let rows = Rows { origin, splits, values: run.embed_images(images.clone())?, width };
        self.write(&rows)?;
        if let Some(path) = &self.caption_vectors {
            let words = dataset.word_width();
            write_npy(path, dataset.caption_vectors_of(images), words)?;
        }
        self.report(rows.origin.image_ids.len(), rows.width, None);
        Ok(())
    }

    /// The rows asked for, of the images of a split.
    fn images(&self, of_split: Range<usize>) -> Result<Range<usize>> {
        let Some(Range { start, end }) = self.rows.clone() else { return Ok(of_split) };
        if end > of_split.len() {
            let problem = format!("ends at {end}, and there are {} images", of_split.len());
            return Err(Error::argument("--rows", problem, "give rows of these images"));
        }
        Ok(of_split.start + start..of_split.start + end)
    }

    /// Checks the files of a command that embeds the graphs of `path`.
    fn check_graph_files(&self, model: &TrainedModel, path: &Path, reading: &GraphReading) -> Result<()> {
        let info = reading.predictions.as_ref().map(|given| given.info.as_path());
        let inputs: Vec<&Path> = [model.path(), path].into_iter().chain(info).collect();
        self.check_outputs(&inputs)
    }

    /// Writes the rows while they are computed.
    fn stream_graphs(&self, path: &Path) -> Result<()> {
        let model = self.run.open_model()?;
        let reading = self.graph_file.reading();
        if self.to_standard_output() {
            let (images, counts) = self.stream_to(std::io::stdout().lock(), &model, path, &reading)?;
            eprint!("{images} images of {} values\n{}", model.width(), left_out(&counts));
            return Ok(());
        }
        self.check_graph_files(&model, path, &reading)?;
        let mut streamed = None;
        let written = write_atomically(&self.out, |file| {
            let result = self.stream_to(file, &model, path, &reading);
            let refused = result.is_err();
            streamed = Some(result);
            match refused {
                true => Err(std::io::Error::other("not complete")),
                false => Ok(()),
            }
        });
        let (images, counts) = match streamed {
            Some(result) => result?,
            None => return written,
        };
        written?;
        self.report(images, model.width(), Some(&counts));
        Ok(())
    }

    /// Writes a stream; returns its number of rows, and what was left out of the graphs.
    fn stream_to(
        &self,
        to: impl Write,
        model: &TrainedModel,
        path: &Path,
        reading: &GraphReading,
    ) -> Result<(usize, NewGraphCounts)> {
        let error = |error| Error::file("write", &self.out)(error);
        let (id, with_files) = (model.checkpoint.model_id(), reading.predictions.is_some());
        let mut stream = ArrowStream::new(to, id, model.width(), with_files).map_err(error)?;
        let mut images = 0;
        let counts = model.embed_parts(path, reading, |part| {
            images += part.ids.len();
            stream.write(&part.ids, &part.image_files, &part.rows).map_err(error)
        })?;
        if images == 0 {
            return Err(no_graph(path, model, &counts));
        }
        stream.finish().map_err(error)?;
        Ok((images, counts))
    }

    fn embed_graphs(&self, path: &Path) -> Result<()> {
        let model = self.run.open_model()?;
        let reading = self.graph_file.reading();
        self.check_graph_files(&model, path, &reading)?;
        let (FileRows { ids, image_files, rows: values }, counts) = model.embed_file(path, &reading)?;
        if ids.is_empty() {
            return Err(no_graph(path, &model, &counts));
        }
        let origin =
            Origin::of_graphs(model.checkpoint.model_id(), counts.fingerprint.clone(), ids, image_files);
        let rows = Rows { origin, splits: Vec::new(), values, width: model.width() };
        self.write(&rows)?;
        self.report(rows.origin.image_ids.len(), rows.width, Some(&counts));
        Ok(())
    }

    /// Checks that nothing that the command reads, and no file of another kind, would be replaced.
    fn check_outputs(&self, inputs: &[&Path]) -> Result<()> {
        let beside = Origin::beside(&self.out);
        let kind = match self.format() {
            Format::Npy | Format::NpyF16 => Kind::NPY,
            Format::Arrow => Kind::ARROW,
            Format::ArrowStream => Kind::ARROW_STREAM,
        };
        let mut outputs = vec![Output { option: "--out", path: &self.out, kind }];
        if kind == Kind::NPY {
            outputs.push(Output { option: "--out", path: &beside, kind: Kind::JSON });
        }
        outputs.extend(self.ids.iter().map(|path| Output { option: "--ids", path, kind: Kind::Ids }));
        let vectors = self.caption_vectors.iter();
        outputs.extend(vectors.map(|path| Output { option: "--caption-vectors", path, kind: Kind::NPY }));
        check_outputs(&outputs, inputs)
    }

    fn write(&self, rows: &Rows<'_>) -> Result<()> {
        let Rows { origin, splits, values, width } = rows;
        match self.format() {
            Format::Npy => write_npy(&self.out, values, *width)?,
            Format::NpyF16 => write_npy_half(&self.out, values, *width)?,
            Format::Arrow | Format::ArrowStream => write_arrow(&self.out, origin, splits, values, *width)?,
        }
        if !matches!(self.format(), Format::Arrow | Format::ArrowStream) {
            origin.clone().write_beside(&self.out)?;
        }
        if let Some(path) = &self.ids {
            write_atomically(path, |writer| {
                origin.image_ids.iter().try_for_each(|id| writeln!(writer, "{id}"))
            })?;
        }
        Ok(())
    }

    fn report(&self, images: usize, width: usize, counts: Option<&NewGraphCounts>) {
        let out = self.out.display();
        if self.json {
            let mut report = serde_json::json!({ "out": out.to_string(), "images": images, "width": width });
            if let Some(counts) = counts {
                report["graphs"] = serde_json::to_value(counts).expect("plain fields");
            }
            println!("{report}");
        } else {
            println!("{out}: {images} images of {width} values");
            print!("{}", counts.map_or(String::new(), left_out));
        }
    }
}

/// Parses `A..B`.
fn rows(text: &str) -> std::result::Result<Range<usize>, String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some(a.parse::<usize>().ok()?..b.parse().ok()?));
    match parsed {
        Some(rows) if rows.start < rows.end => Ok(rows),
        _ => Err("give A..B with A below B, such as 0..1000".into()),
    }
}

/// Error about a file without a graph that can be embedded.
fn no_graph(path: &Path, model: &TrainedModel, counts: &NewGraphCounts) -> Error {
    if counts.left_out.is_empty() {
        return Error::invalid(path, "file", "no graph", "give a file with at least one graph");
    }
    let problem = match counts.unknown_objects.first() {
        Some((name, _)) => {
            format!("no object of a known name; the most frequent name is \"{}\"", excerpt(name))
        }
        None => "no object in any graph".to_string(),
    };
    let known = model.vocabulary().some_objects();
    Error::invalid(path, "names", problem, format!("use names of the run, such as {known}"))
}
