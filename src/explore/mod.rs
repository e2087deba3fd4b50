//! Local web page for a trained run: enter a graph or select an image, delete edges, and see how the nearest
//! images change.
//!
//! The page ([`page`]) is plain HTML, CSS and JavaScript within the program; it loads nothing from outside.
//! It uses the JSON API, which is also open to other clients. The API answers from the run's data alone; no
//! request can name a file.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /api/vocabulary` | `{split, images, objects: [name], predicates: [name], relationships, examples}`, the most frequent names first |
//! | `GET /api/image/ID` | `{image_id, coco_id, captions, graph, without_in_image}` of an image of the split |
//! | `GET /api/image/ID?remove=12&edges=augmented&seed=1` | the same; the graph without random edges, as `retrieve` removes them |
//! | `GET /api/image/ID/ranks?edges=augmented&seed=1` | `{image_id, images, edges, points: [{removed, rank, cosine}]}`: the rank of the image for its own graph without 0, 1, 2... of these edges |
//! | `GET /api/images?caption=WORDS` | `{images: [{image_id, caption}]}`: the first that have all the words in one caption |
//! | `GET /api/random` | `{image_id}` |
//! | `GET /api/sentence?text=WORDS` | `{graph, not_understood}`: the graph that a sentence describes, and the words that were not understood |
//! | `POST /api/search` | the nearest images, below |
//!
//! `relationships` are those that most images of the split have, the most frequent first. Each is `[subject, predicate, object]`, as
//! indices into the lists of names. `examples` are three graphs of frequent relationships that occur together.
//!
//! A `graph` has the format of `search --graph`: a list of `[subject, predicate, object]` and `[object]`
//! ([`query_graph`](crate::data::query_graph)). `without_in_image` names the objects that lack their edge to
//! the image node, which every object has by default. An object without any edge is not part of the graph. A
//! search is
//!
//! ```json
//! {"graph": [["man", "throwing", "frisbee"]], "without_in_image": [], "having": ["dog"], "target": 2317468, "k": 12}
//! ```
//!
//! where all fields but `graph` are optional. Every result has all objects of `having`; its rank is the one among all images.
//! `matching` is the number of images with these objects. The response lists the best images first. `shared` is what an
//! image has in common with the query, by the names in its own graph:
//!
//! ```json
//! {"images": 390, "matching": 31, "target": {"image_id": 2317468, "rank": 1, "cosine": 0.97},
//!  "results": [{"rank": 1, "image_id": 2317468, "coco_id": 5, "cosine": 0.97, "caption_similarity": 1.0,
//!               "captions": ["..."], "graph": [["man"], ["frisbee"], ["man", "throwing", "frisbee"]],
//!               "drawing": {"width": 402, "height": 302, "elements": "<rect .../>"}, "url": "https://...",
//!               "shared": {"relationships": [["man", "throwing", "frisbee"]], "objects": ["man", "frisbee"]}}]}
//! ```
//!
//! `drawing` is the content of an `<svg>` with the image's boxes; elements of an object have its index in
//! `data-object`. It is null if the data has no boxes. `url` is the address of the photograph, or null.
//! `caption_similarity` is the similarity to the captions of the target, or null without a target. Images
//! with the same score rank before the target. A request has 20 seconds to arrive and be answered, and its client 10 seconds
//! to take the answer. Errors have a status of 4xx and `{"error": "a sentence",
//! "statement": 0, "suggestions": ["name"]}`, where the last two are only present for a graph with an unknown
//! name.

mod api;
mod curve;
mod frequent;
mod http;
pub mod page;
mod routes;
mod stream;

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};

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
use frequent::Frequent;

/// Largest number of objects in a query; the largest image of the paper's data has 40.
const MOST_OBJECTS: usize = 128;
/// Largest number of statements in a query.
const MOST_STATEMENTS: usize = 512;

/// Message to the thread that holds the model.
pub enum Event {
    /// A query, and the channel for its embedding.
    Embed(SceneGraphBuf, oneshot::Sender<Result<Vec<f32>>>),
    /// Stops the server.
    Stop,
}

/// Shared state of the requests.
struct Collection {
    run: Arc<Run>,
    split: Split,
    /// Images of the split.
    images: Range<usize>,
    /// `[images, D]` embeddings of the images.
    embeddings: Vec<f32>,
    /// What the images often have, once it was asked for.
    frequent: OnceLock<Frequent>,
    embed: Sender<Event>,
}

/// Embeds the images of `split`, then answers requests on `listener` until an [`Event::Stop`] arrives. Calls
/// `ready` with the address once requests are answered. It is boxed: a type of its own would compile the server and all backends
/// once more for its caller.
///
/// The calling thread keeps the model, which only one query can use at a time, and the device. The rest of a
/// request runs concurrently.
pub fn explore(
    run: Run,
    split: Split,
    listener: TcpListener,
    events: (Sender<Event>, Receiver<Event>),
    ready: Box<dyn FnOnce(SocketAddr) -> Result<()>>,
) -> Result<()> {
    if run.dataset.split(split).is_empty() {
        let remedy = "choose another split or prepare more images";
        return Err(Error::argument("--split", format!("{split} has no images"), remedy));
    }
    // Opened before the first query, so that a missing or damaged file is an error of the command.
    run.dataset.verify(0..run.dataset.image_count())?;
    run.similarity()?;
    let run = Arc::new(run);
    run.compute(ExploreTask { run: &run, split, listener, events, ready })
}

struct ExploreTask<'a> {
    run: &'a Arc<Run>,
    split: Split,
    listener: TcpListener,
    events: (Sender<Event>, Receiver<Event>),
    ready: Box<dyn FnOnce(SocketAddr) -> Result<()>>,
}

impl BackendTask for ExploreTask<'_> {
    type Output = ();

    fn run<B: Backend>(self, backend: B) -> Result<()> {
        let ExploreTask { run, split, listener, events: (sender, events), ready } = self;
        let graphs = run.graphs(split)?;
        let most = BatchSize::bound(graphs.iter().copied(), BATCH_GRAPHS.min(graphs.len()));
        let capacity = BatchSize {
            nodes: most.nodes.max(MOST_OBJECTS + 1),
            edges: most.edges.max(MOST_STATEMENTS + MOST_OBJECTS),
            ..most
        };
        let checkpoint = &run.model.checkpoint;
        let mut model = Model::new(backend, checkpoint.config.model, &checkpoint.tensors, capacity)?;
        let progress = Progress::new("embed", Some(graphs.len() as u64), "graphs");
        let embeddings = embed_with(&mut model, graphs.into_iter(), |count| progress.advance(count as u64))?;
        progress.finish();

        let images = run.dataset.split(split);
        let frequent = OnceLock::new();
        let collection =
            Collection { run: Arc::clone(run), split, images, embeddings, frequent, embed: sender };
        let server = http::Server::start(listener, Arc::new(collection))?;
        ready(server.address())?;
        embed_queries(events, |graph| embed_with(&mut model, [graph.view()].into_iter(), |_| ()));
        server.stop();
        Ok(())
    }
}

/// Embeds queries until an [`Event::Stop`]. A query whose client has gone is left out.
fn embed_queries(
    events: impl IntoIterator<Item = Event>,
    mut embed: impl FnMut(SceneGraphBuf) -> Result<Vec<f32>>,
) {
    for event in events {
        match event {
            Event::Embed(_, reply) if reply.is_closed() => {}
            // The client may go meanwhile.
            Event::Embed(graph, reply) => {
                let _ = reply.send(embed(graph));
            }
            Event::Stop => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_clients_that_have_gone_are_not_embedded() {
        let query = || {
            let (reply, embedded) = oneshot::channel();
            (Event::Embed(SceneGraphBuf::default(), reply), embedded)
        };
        let ((first, mut waiting), (second, gone), (third, _)) = (query(), query(), query());
        drop(gone);
        let mut count = 0;
        embed_queries([first, second, Event::Stop, third], |_| {
            count += 1;
            Ok(vec![0.5])
        });
        assert_eq!(waiting.try_recv().unwrap().unwrap(), [0.5]);
        assert_eq!(count, 1);
    }
}
