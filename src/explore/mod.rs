//! A trained run as a local web page: type a graph or pick an image, delete edges, see the nearest images change.
//!
//! The page ([`page`]) is plain HTML, CSS and JavaScript within the program; it asks for nothing from outside. It and
//! anyone else may use the JSON API, which answers from the run's data alone; no request names a file.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /api/vocabulary` | `{split, images, objects: [name], predicates: [name]}`, the most frequent names first |
//! | `GET /api/image/ID` | `{image_id, coco_id, captions, graph, without_in_image}` of an image of the split |
//! | `GET /api/image/ID?remove=12&edges=augmented&seed=1` | the same; the graph without random edges, as `retrieve` removes them |
//! | `GET /api/images?caption=WORDS` | `{images: [{image_id, caption}]}`: the first that have all the words in one caption |
//! | `GET /api/random` | `{image_id}` |
//! | `POST /api/search` | the nearest images, below |
//!
//! A `graph` is what `search --graph` reads: a list of `[subject, predicate, object]` and `[object]`
//! ([`query_graph`](crate::data::query_graph)). `without_in_image` names the objects that lack the edge which leads
//! from every object to the image node; an object without any edge is no part of the graph. A search is
//!
//! ```json
//! {"graph": [["man", "throwing", "frisbee"]], "without_in_image": [], "target": 2317468, "k": 12}
//! ```
//!
//! where all but `graph` may be left out; its answer, best first, `shared` being what an image has in common with the
//! query, in the names of its own graph:
//!
//! ```json
//! {"images": 390, "target": {"image_id": 2317468, "rank": 1, "cosine": 0.97},
//!  "results": [{"rank": 1, "image_id": 2317468, "coco_id": 5, "cosine": 0.97, "caption_similarity": 1.0,
//!               "captions": ["..."], "graph": [["man"], ["frisbee"], ["man", "throwing", "frisbee"]],
//!               "drawing": {"width": 402, "height": 302, "elements": "<rect .../>"}, "url": "https://...",
//!               "shared": {"relationships": [["man", "throwing", "frisbee"]], "objects": ["man", "frisbee"]}}]}
//! ```
//!
//! `drawing` is what stands inside an `<svg>` of the image's boxes, each element of an object with its place among the
//! graph's objects in `data-object`; null where the data has no boxes of it. `url` is the photograph's address, or null.
//! `caption_similarity` is that with the target's captions, null where there is no target; the target's rank counts
//! images that score the same before it. What cannot be answered has a status of 4xx and
//! `{"error": "a sentence", "statement": 0, "suggestions": ["name"]}`, the last two only of a graph with an unknown name.

mod api;
mod http;
pub mod page;

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use tokio::sync::oneshot;

use crate::backend::Backend;
use crate::backend::device::BackendTask;
use crate::batch::graph_batch::BatchSize;
use crate::data::Split;
use crate::data::scene_graph::SceneGraphBuf;
use crate::error::{Error, Result};
use crate::evaluation::embed::{BATCH_GRAPHS, embed_with};
use crate::model::Model;
use crate::progress::Progress;
use crate::run::Run;

/// Objects of a query; the largest image of the paper's data has 40.
const MOST_OBJECTS: usize = 128;
/// Statements of a query.
const MOST_STATEMENTS: usize = 512;

/// What the thread with the model waits for.
pub enum Event {
    /// A query, and where its embedding goes.
    Embed(SceneGraphBuf, oneshot::Sender<Result<Vec<f32>>>),
    /// The end.
    Stop,
}

/// What requests are answered from.
struct Collection {
    run: Arc<Run>,
    split: Split,
    /// The split's images.
    images: Range<usize>,
    /// `[images, D]`
    embeddings: Vec<f32>,
    embed: Sender<Event>,
}

/// Embeds the images of `split`, then answers requests at `listener` until a [`Event::Stop`] comes. `ready` is called
/// with the address once they are answered.
///
/// The calling thread keeps the model, which no two queries use at once, and the device; the rest of a request runs
/// beside it.
pub fn explore(
    run: Run,
    split: Split,
    listener: TcpListener,
    events: (Sender<Event>, Receiver<Event>),
    ready: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    if run.dataset.split(split).is_empty() {
        let remedy = "choose another split or prepare more images";
        return Err(Error::argument("--split", format!("{split} has no images"), remedy));
    }
    let run = Arc::new(run);
    run.compute(ExploreTask { run: &run, split, listener, events, ready })
}

struct ExploreTask<'a, F> {
    run: &'a Arc<Run>,
    split: Split,
    listener: TcpListener,
    events: (Sender<Event>, Receiver<Event>),
    ready: F,
}

impl<F: FnOnce(SocketAddr) -> Result<()>> BackendTask for ExploreTask<'_, F> {
    type Output = ();

    fn run<B: Backend>(self, backend: B) -> Result<()> {
        let ExploreTask { run, split, listener, events: (sender, events), ready } = self;
        let graphs = run.graphs(split);
        let most = BatchSize::bound(graphs.iter().copied(), BATCH_GRAPHS.min(graphs.len()));
        let capacity = BatchSize {
            nodes: most.nodes.max(MOST_OBJECTS + 1),
            edges: most.edges.max(MOST_STATEMENTS + MOST_OBJECTS),
            ..most
        };
        let checkpoint = &run.checkpoint;
        let mut model = Model::new(backend, checkpoint.config.model, &checkpoint.tensors, capacity)?;
        let progress = Progress::new("embed", Some(graphs.len() as u64), "graphs");
        let embeddings = embed_with(&mut model, graphs.into_iter(), |count| progress.advance(count as u64))?;
        progress.finish();

        let images = run.dataset.split(split);
        let collection = Collection { run: Arc::clone(run), split, images, embeddings, embed: sender };
        let server = http::Server::start(listener, Arc::new(collection))?;
        ready(server.address())?;
        for event in events {
            match event {
                // Whoever asked may have gone.
                Event::Embed(graph, reply) => {
                    let _ = reply.send(embed_with(&mut model, [graph.view()].into_iter(), |_| ()));
                }
                Event::Stop => break,
            }
        }
        server.stop();
        Ok(())
    }
}
