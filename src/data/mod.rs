//! Preparation of raw public files into one memory-mapped data file, and typed views of it.

mod bits;
pub mod contents;
pub mod dataset;
pub mod format;
pub mod kept_images;
pub mod new_graphs;
pub mod object_box;
pub mod prepare;
pub mod query_graph;
pub mod raw;
pub mod scene_graph;
pub mod selection;
pub mod sentence;
pub mod similarity;
pub mod similarity_matrix;
pub mod split;
pub mod stages;
pub mod statistics;
pub mod subset;
pub mod supervision;
pub mod vocabulary;
pub(crate) mod web_address;
pub mod words;

pub use dataset::Dataset;
pub use split::Split;
