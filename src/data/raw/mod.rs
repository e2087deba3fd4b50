//! Readers of the public files, plain or gzip-compressed: Visual Genome, GQA, COCO captions, GloVe.
//!
//! JSON is streamed record by record. Data kept in memory is compact ([`RawGraphs`]) or filtered while
//! reading.

pub mod coco_captions;
pub mod glove;
mod gqa;
pub mod image_data;
pub mod json_stream;
pub mod oddities;
mod raw_box;
pub mod raw_file;
pub mod raw_graphs;
pub mod visual_genome;

pub use raw_graphs::RawGraphs;
