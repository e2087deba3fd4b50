//! Readers of the public files, plain or gzip-compressed: Visual Genome, GQA, predicted graphs, graphs by name (JSON or
//! Arrow), COCO captions,
//! GloVe.
//!
//! JSON is streamed record by record. Data kept in memory is compact ([`RawGraphs`]) or filtered while
//! reading; what grows with the number of images goes to temporary files.

mod arrow_stream;
pub(crate) mod coco_captions;
pub mod glove;
mod gqa;
pub(crate) mod graph_batches;
pub(crate) mod graph_lines;
pub mod ids;
pub(crate) mod image_data;
pub(crate) mod json_stream;
pub mod oddities;
pub mod predictions;
mod python_json;
pub(crate) mod query_graphs;
mod raw_box;
pub(crate) mod raw_file;
pub mod raw_graphs;
pub(crate) mod stored_graphs;
pub(crate) mod visual_genome;

pub use raw_graphs::RawGraphs;
