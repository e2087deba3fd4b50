//! Handlers of the JSON API, which the parent module describes.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

use axum::http::StatusCode;
use clap::ValueEnum;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::frequent::Frequent;
use super::{Collection, Event, MOST_OBJECTS, MOST_STATEMENTS};
use crate::data::query_graph::{QueryGraph, QueryProblem, Statement};
use crate::data::scene_graph::SceneGraphBuf;
use crate::data::sentence::Lexicon;
use crate::data::vocabulary::Vocabulary;
use crate::data::{Dataset, Split};
use crate::error::Error;
use crate::evaluation::{Embeddings, QueryEdges, incomplete_query, nearest_stored, rank};
use crate::report::scene::{Drawing, Frame, Scene};
use crate::report::scene_drawing;

/// Number of images listed by a search in the captions.
const MOST_LISTED: usize = 24;
/// Largest number of results of a search.
const MOST_RESULTS: usize = 100;
/// Largest number of objects that the results must have.
const MOST_HAVING: usize = 16;

/// What a request gets.
pub(super) type Answer<T> = std::result::Result<T, Refusal>;

/// An error response.
#[derive(Debug, Default, Serialize)]
pub(super) struct Refusal {
    #[serde(skip)]
    pub status: StatusCode,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    suggestions: Vec<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Refusal { status, error: error.into(), ..Default::default() }
    }

    fn not_found(error: impl Into<String>) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, error)
    }

    fn bad(error: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }
}

impl From<QueryProblem> for Refusal {
    fn from(problem: QueryProblem) -> Self {
        Refusal {
            statement: problem.statement,
            suggestions: problem.suggestions.clone(),
            ..Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, problem.to_string())
        }
    }
}

impl From<Error> for Refusal {
    /// An internal error: the request was valid.
    fn from(error: Error) -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// The client of a request, as its work on another thread sees it.
pub(super) struct Client<'a> {
    is_gone: &'a dyn Fn() -> bool,
}

impl Client<'_> {
    /// Fails if the client no longer waits, so that the rest of the work is left out. Nobody receives this error.
    pub(super) fn check(&self) -> Answer<()> {
        match (self.is_gone)() {
            true => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the client has gone")),
            false => Ok(()),
        }
    }
}

/// Runs work that takes some milliseconds on a separate thread, so that connections are still served. Dropping the future
/// abandons the work: it does not begin, or ends at its next [`Client::check`].
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce(&Client<'_>) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let (reply, answer) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let client = Client { is_gone: &|| reply.is_closed() };
        let answer = client.check().and_then(|()| work(&client));
        let _ = reply.send(answer);
    });
    let failed = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed; the log says why");
    answer.await.map_err(failed)?
}

#[derive(Serialize)]
pub(super) struct Names<'a> {
    split: Split,
    images: usize,
    objects: Vec<String>,
    predicates: Vec<String>,
    /// Frequent relationships, as indices into `objects`, `predicates` and `objects`.
    relationships: &'a [[u32; 3]],
    examples: &'a [Vec<Statement>],
}

/// Names that a query may use, without those of the image node and its edges, and what the images often have.
pub(super) fn vocabulary(collection: &Collection) -> Names<'_> {
    let dataset = &collection.run.dataset;
    let frequent = collection.frequent.get_or_init(|| Frequent::new(dataset, collection.images.clone()));
    let objects = (0..dataset.object_count() - 1).map(|t| dataset.object_name(t).into());
    let predicates = (0..dataset.predicate_count() - 1).map(|t| dataset.predicate_name(t).into());
    Names {
        split: collection.split,
        images: collection.images.len(),
        objects: objects.collect(),
        predicates: predicates.collect(),
        relationships: &frequent.relationships,
        examples: &frequent.examples,
    }
}

/// Random edges to remove from a graph.
pub(super) struct Removal {
    pub remove: usize,
    pub edges: QueryEdges,
    pub seed: u64,
}

impl Removal {
    /// Reads the options of a request, of which `allowed` are known.
    pub fn parse(options: &str, allowed: &[&str]) -> Answer<Self> {
        let mut removal = Removal { remove: 0, edges: QueryEdges::default(), seed: 1 };
        for (name, value) in form_urlencoded::parse(options.as_bytes()) {
            match &*name {
                other if !allowed.contains(&other) => {
                    let known = allowed.join(" or ");
                    return Err(Refusal::bad(format!("unknown option {name:?}; use {known}")));
                }
                "remove" => removal.remove = number("remove", &value)?,
                "seed" => removal.seed = number("seed", &value)?,
                _ => {
                    let wrong = |_| Refusal::bad(format!("edges: {value:?}; use augmented or relationships"));
                    removal.edges = QueryEdges::from_str(&value, false).map_err(wrong)?;
                }
            }
        }
        Ok(removal)
    }
}

#[derive(Serialize)]
pub(super) struct Image {
    image_id: u64,
    coco_id: u64,
    captions: Vec<String>,
    graph: Vec<Statement>,
    without_in_image: Vec<String>,
}

/// Returns the image with this id; `options` may remove edges.
pub(super) fn image(collection: &Collection, id: &str, options: &str) -> Answer<Image> {
    let id = number("an image id", id)?;
    let image = find(collection, id)?;
    let Removal { remove, edges, seed } = Removal::parse(options, &["remove", "edges", "seed"])?;
    let dataset = &collection.run.dataset;
    let in_image = dataset.predicate_count() as u32 - 1;
    let whole = dataset.graph(image);
    let graph = match remove {
        0 => SceneGraphBuf::from(whole),
        _ => incomplete_query(whole, remove, edges, in_image, seed, id),
    };
    let (named, without_in_image) = QueryGraph::naming(graph.view(), dataset.vocabulary());
    Ok(Image {
        image_id: id,
        coco_id: dataset.coco_id(image),
        captions: captions(dataset, image),
        graph: named.statements(dataset.vocabulary()),
        without_in_image,
    })
}

#[derive(Serialize)]
pub(super) struct Listing {
    images: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    image_id: u64,
    caption: String,
}

/// Returns the first images with a caption that contains all the given words as prefixes of its words.
pub(super) fn images(collection: &Collection, options: &str, client: &Client<'_>) -> Answer<Listing> {
    let mut wanted = Vec::new();
    for (name, value) in form_urlencoded::parse(options.as_bytes()) {
        match &*name {
            "caption" => wanted.extend(collection.run.dataset.tokeniser().words(&value)),
            _ => return Err(Refusal::bad(format!("unknown option {name:?}; use caption"))),
        }
    }
    let dataset = &collection.run.dataset;
    let matches = |caption: &&str| {
        let words = dataset.tokeniser().words(caption);
        wanted.iter().all(|start| words.iter().any(|word| word.starts_with(start)))
    };
    let listed = collection.images.clone().filter_map(|image| {
        if let Err(gone) = client.check() {
            return Some(Err(gone));
        }
        let caption = dataset.captions(image).find(matches)?.trim().to_string();
        Some(Ok(Listed { image_id: dataset.image_id(image), caption }))
    });
    Ok(Listing { images: listed.take(MOST_LISTED).collect::<Answer<_>>()? })
}

/// The graph that a sentence describes.
#[derive(Serialize)]
pub(super) struct Understood {
    graph: Vec<Statement>,
    not_understood: Vec<String>,
}

/// Returns the graph of the sentence in `options`.
pub(super) fn sentence(collection: &Collection, options: &str) -> Answer<Understood> {
    let mut text = String::new();
    for (name, value) in form_urlencoded::parse(options.as_bytes()) {
        match &*name {
            "text" => text = value.into_owned(),
            _ => return Err(Refusal::bad(format!("unknown option {name:?}; use text"))),
        }
    }
    let vocabulary = collection.run.dataset.vocabulary();
    let sentence = Lexicon::new(vocabulary).understand(&text);
    Ok(Understood { graph: sentence.statements(vocabulary), not_understood: sentence.not_understood })
}

/// Returns a random image, uniformly distributed.
pub(super) fn random(collection: &Collection) -> serde_json::Value {
    let image = rand::rng().random_range(collection.images.clone());
    serde_json::json!({ "image_id": collection.run.dataset.image_id(image) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    graph: Vec<Statement>,
    #[serde(default)]
    without_in_image: Vec<String>,
    #[serde(default)]
    having: Vec<String>,
    #[serde(default)]
    target: Option<u64>,
    #[serde(default = "default_results")]
    k: usize,
}

fn default_results() -> usize {
    12
}

#[derive(Serialize)]
pub(super) struct Results {
    images: usize,
    /// Number of images that have all objects of `having`.
    matching: usize,
    target: Option<Target>,
    results: Vec<Found>,
}

#[derive(Serialize)]
struct Target {
    image_id: u64,
    rank: usize,
    cosine: f32,
}

#[derive(Serialize)]
struct Found {
    rank: usize,
    image_id: u64,
    coco_id: u64,
    cosine: f32,
    caption_similarity: Option<f32>,
    captions: Vec<String>,
    graph: Vec<Statement>,
    drawing: Option<Drawing>,
    url: Option<String>,
    shared: Shared,
}

#[derive(Serialize)]
struct Shared {
    relationships: Vec<Statement>,
    objects: Vec<String>,
}

/// Returns the images nearest to the graph described by `body`.
pub(super) async fn search(collection: Arc<Collection>, body: &[u8]) -> Answer<Results> {
    let request: Search = serde_json::from_slice(body).map_err(|error| {
        Refusal::bad(format!(
            "{error}; send a graph such as {{\"graph\": [[\"man\", \"wearing\", \"hat\"]]}}"
        ))
    })?;
    if request.graph.len() > MOST_STATEMENTS {
        let count = request.graph.len();
        return Err(Refusal::bad(format!("{count} statements; a query has at most {MOST_STATEMENTS}")));
    }
    if !(1..=MOST_RESULTS).contains(&request.k) {
        return Err(Refusal::bad(format!("k is {}; ask for 1 to {MOST_RESULTS} images", request.k)));
    }
    let target = request.target.map(|id| find(&collection, id)).transpose()?;
    let dataset = &collection.run.dataset;
    let named = QueryGraph::new(&request.graph, dataset.vocabulary())?;
    if named.objects.len() > MOST_OBJECTS {
        let count = named.objects.len();
        return Err(Refusal::bad(format!("{count} objects; a query has at most {MOST_OBJECTS}")));
    }
    let graph = named.partly_augmented(&request.without_in_image, dataset.vocabulary())?;
    let having = having(&request.having, dataset.vocabulary())?;
    let embedding = embed(&collection, graph).await?;
    let query = Query { named, embedding, having, target, k: request.k };
    beside(move |client| results(&collection, &query, client)).await
}

/// Types of the objects that results must have.
fn having(names: &[String], vocabulary: &Vocabulary) -> Answer<Vec<u32>> {
    if names.len() > MOST_HAVING {
        let count = names.len();
        return Err(Refusal::bad(format!("having: {count} objects; name at most {MOST_HAVING}")));
    }
    let object = |name: &String| {
        let statement = [vec![name.clone()]];
        let graph = QueryGraph::new(&statement, vocabulary).map_err(|problem| Refusal {
            suggestions: problem.suggestions.clone(),
            ..Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("having: {}; {}", problem.problem, problem.remedy),
            )
        })?;
        Ok(graph.objects[0])
    };
    names.iter().map(object).collect()
}

/// Embeds a graph on the thread that holds the model: `[D]`.
pub(super) async fn embed(collection: &Collection, graph: SceneGraphBuf) -> Answer<Vec<f32>> {
    let gone = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the program is ending");
    let (reply, embedded) = oneshot::channel();
    collection.embed.send(Event::Embed(graph, reply)).map_err(|_| gone())?;
    Ok(embedded.await.map_err(|_| gone())??)
}

/// A checked search.
struct Query {
    named: QueryGraph,
    /// `[D]` embedding of the graph.
    embedding: Vec<f32>,
    /// Types of the objects that every result has.
    having: Vec<u32>,
    /// Image whose rank is wanted.
    target: Option<usize>,
    /// Number of results.
    k: usize,
}

fn results(collection: &Collection, query: &Query, client: &Client<'_>) -> Answer<Results> {
    let Collection { run, images, embeddings, .. } = collection;
    let &Query { ref named, ref embedding, ref having, target, k } = query;
    let (dataset, width) = (&run.dataset, run.width());
    let (query, embeddings) = (Embeddings::new(embedding, width)?, Embeddings::new(embeddings, width)?);
    let target_rank = match target {
        None => None,
        Some(target) => {
            let (rank, cosine) = rank(query, embeddings, target - images.start)?;
            Some(Target { image_id: dataset.image_id(target), rank, cosine })
        }
    };
    let typed = |graph: &QueryGraph, &(subject, predicate, object): &(u32, u32, u32)| {
        (graph.objects[subject as usize], predicate, graph.objects[object as usize])
    };
    let relationships: HashSet<_> = named.relationships.iter().map(|r| typed(named, r)).collect();
    let objects: HashSet<u32> = named.objects.iter().copied().collect();
    let similarity = match target {
        Some(target) => Some((target, run.similarity()?)),
        None => None,
    };
    client.check()?;
    let occurs = |row: usize| {
        let objects = dataset.graph(images.start + row).node_object;
        having.iter().all(|object| objects.contains(object))
    };
    let matching = match having.is_empty() {
        true => images.len(),
        false => (0..images.len()).filter(|&row| occurs(row)).count(),
    };
    let nearest = nearest_that(occurs, matching.min(k), |most| {
        client.check()?;
        Ok(nearest_stored(query, embeddings, most)?)
    })?;
    let found = nearest.into_iter().map(|(rank, row, cosine)| {
        client.check()?;
        let image = images.start + row;
        let (own, _) = QueryGraph::naming(dataset.graph(image), dataset.vocabulary());
        let mut shared = own.clone();
        shared.relationships.retain(|relationship| relationships.contains(&typed(&own, relationship)));
        let shared_objects = own.names.iter().zip(&own.objects);
        let shared_objects = shared_objects.filter(|(_, object)| objects.contains(object));
        Ok(Found {
            rank,
            image_id: dataset.image_id(image),
            coco_id: dataset.coco_id(image),
            cosine,
            caption_similarity: similarity.map(|(target, similarity)| similarity.get(target, image)),
            captions: captions(dataset, image),
            graph: own.statements(dataset.vocabulary()),
            drawing: drawing(dataset, image)?,
            url: dataset.url(image).map(str::to_owned),
            shared: Shared {
                relationships: shared.statements(dataset.vocabulary()).split_off(own.names.len()),
                objects: shared_objects.map(|(name, _)| name.clone()).collect(),
            },
        })
    });
    let results = found.collect::<Answer<_>>()?;
    Ok(Results { images: images.len(), matching, target: target_rank, results })
}

/// The first `count` rows that `occurs` accepts, with their ranks among all rows and their cosines. `nearest` gives a number of
/// the nearest rows; it is asked for more until enough are accepted. At least `count` rows are accepted in all.
fn nearest_that(
    occurs: impl Fn(usize) -> bool,
    count: usize,
    nearest: impl Fn(usize) -> Answer<Vec<(usize, f32)>>,
) -> Answer<Vec<(usize, usize, f32)>> {
    let mut most = count;
    loop {
        let rows = nearest(most)?;
        let ranked = (1..).zip(rows).map(|(rank, (row, cosine))| (rank, row, cosine));
        let found: Vec<_> = ranked.filter(|&(_, row, _)| occurs(row)).take(count).collect();
        if found.len() == count {
            return Ok(found);
        }
        most *= 8;
    }
}

/// Draws the boxes of an image; `None` if the data has none.
fn drawing(dataset: &Dataset, image: usize) -> Answer<Option<Drawing>> {
    let Some(size) = dataset.image_size(image) else { return Ok(None) };
    let boxes: Vec<_> = dataset.boxes(image).collect();
    if boxes.iter().all(Option::is_none) {
        return Ok(None);
    }
    let graph = dataset.graph(image);
    let (objects, relationships) = (dataset.object_names(graph), dataset.relationships(graph));
    let frame = Some(Frame { size, boxes: &boxes });
    let drawn =
        scene_drawing::draw(Scene { objects: &objects, relationships: &relationships, kinds: &[], frame });
    Ok(Some(drawn.map_err(Error::file("draw", format!("image {}", dataset.image_id(image))))?))
}

/// Index of the image with this id in the split.
pub(super) fn find(collection: &Collection, id: u64) -> Answer<usize> {
    let Collection { run, split, images, .. } = collection;
    match run.dataset.find_image(id) {
        Some(image) if images.contains(&image) => Ok(image),
        Some(_) => Err(Refusal::not_found(format!(
            "image {id} is not of the {split} images; start `scenerank explore` with --split all to find it"
        ))),
        None => Err(Refusal::not_found(format!("the data has no image {id}; look for one by its caption"))),
    }
}

fn captions(dataset: &Dataset, image: usize) -> Vec<String> {
    dataset.captions(image).map(|caption| caption.trim().to_string()).collect()
}

pub(super) fn number<T: FromStr>(what: &str, text: &str) -> Answer<T> {
    text.parse().map_err(|_| Refusal::bad(format!("{what}: {text:?} is not a whole number")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Runs `beside` with one thread for work, which `hold` occupies first.
    fn with_one_worker(test: impl AsyncFnOnce(mpsc::Sender<()>)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (release, held) = mpsc::channel();
        runtime.block_on(async {
            tokio::task::spawn_blocking(move || held.recv());
            test(release).await;
        });
    }

    #[test]
    fn work_of_a_client_that_has_gone_does_not_begin() {
        with_one_worker(async |release| {
            static BEGAN: AtomicBool = AtomicBool::new(false);
            let abandoned = beside(|_| {
                BEGAN.store(true, Ordering::SeqCst);
                Ok(())
            });
            assert!(tokio::time::timeout(Duration::from_millis(20), abandoned).await.is_err());
            release.send(()).unwrap();
            beside(|_| Ok(())).await.unwrap_or_else(|refusal| panic!("{refusal:?}"));
            assert!(!BEGAN.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn work_ends_when_its_client_goes() {
        with_one_worker(async |release| {
            release.send(()).unwrap();
            let (noticed, notices) = mpsc::channel();
            let abandoned = beside(move |client| {
                let checked = loop {
                    if let Err(gone) = client.check() {
                        break Err(gone);
                    }
                };
                noticed.send(()).unwrap();
                checked as Answer<()>
            });
            assert!(tokio::time::timeout(Duration::from_millis(20), abandoned).await.is_err());
            notices.recv_timeout(Duration::from_secs(10)).unwrap();
        });
    }
}
