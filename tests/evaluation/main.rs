//! Tests of the evaluation: its measures and baselines, embeddings kept in files, queries of incomplete graphs, and the
//! plots and scenes of a report.

mod baselines;
mod incomplete_query;
mod metrics;
mod plots;
mod scene_boxes;
mod stored_rows;
