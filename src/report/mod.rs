//! What people see: progress, tables, plots, TensorBoard events.

pub mod plots;
pub mod progress;
pub mod run_log;
pub mod similarity_curves;
pub mod table;
pub mod tensorboard;
