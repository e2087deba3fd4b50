//! Tests of the evaluation: metrics and baselines, embeddings in files, incomplete queries, and the plots and
//! scenes of a report.

mod baselines;
mod incomplete_query;
mod metrics;
mod plots;
mod scene_boxes;
mod stored_rows;
