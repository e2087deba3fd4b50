//! Raw public files in, one memory-mapped data file out, and typed views of it.

pub mod scene_graph;
pub mod similarity;
