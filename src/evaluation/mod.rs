//! Quality of embeddings: agreement with caption similarity, and retrieval with incomplete queries (model.md,
//! "Evaluation").
//!
//! Every result is a function of its inputs alone: work is divided into blocks whose size does not depend on
//! the number of threads, and sums run in a fixed order.

pub mod agreement;
pub mod bag_of_objects;
pub mod embed;
pub mod embeddings;
pub mod embeddings_file;
pub mod features;
pub mod incomplete_query;
pub mod kendall;
pub mod name_vectors;
pub mod nearest;
pub mod noise;
pub mod normal_features;
mod order;
pub mod pearson;
pub mod projection;
pub mod retrieval;
pub mod spearman;

pub use agreement::{Agreement, Correlations, UndefinedRows, agreement, row_kendall};
pub use bag_of_objects::BagOfObjects;
pub use embeddings::Embeddings;
pub use embeddings_file::EmbeddingsFile;
pub use incomplete_query::{QueryEdges, incomplete_query};
pub use name_vectors::mean_name_vectors;
pub use nearest::{nearest, nearest_stored, rank};
pub use normal_features::normal_features;
pub use retrieval::{RetrievalMetrics, ranks};
