//! Quality of embeddings: agreement with caption similarity, and retrieval with incomplete queries (docs/model.md,
//! "Evaluation").
//!
//! Every result is a function of its inputs alone: work is divided into blocks whose size does not depend on
//! the number of threads, and sums run in a fixed order.

pub(crate) mod agreement;
pub(crate) mod bag_of_objects;
pub mod caption_queries;
pub mod embed;
pub(crate) mod embeddings;
pub(crate) mod embeddings_file;
pub mod features;
pub(crate) mod incomplete_query;
mod kendall;
pub mod measure;
pub(crate) mod name_vectors;
pub(crate) mod nearest;
pub mod noise;
pub(crate) mod normal_features;
mod order;
pub mod pearson;
pub mod projection;
pub mod rank_correlations;
pub(crate) mod retrieval;
mod spearman;

pub use agreement::{Agreement, Correlations, UndefinedRows, agreement, row_kendall};
pub use bag_of_objects::BagOfObjects;
pub use embeddings::Embeddings;
pub use embeddings_file::EmbeddingsFile;
pub use incomplete_query::{QueryEdges, incomplete_query};
pub use name_vectors::mean_name_vectors;
pub use nearest::{nearest, nearest_many, nearest_stored, nearest_stored_many, rank, rank_many};
pub use normal_features::normal_features;
pub use retrieval::{RetrievalMetrics, ranks};
