//! What people see: progress, plots, TensorBoard events.

pub mod progress;
pub mod similarity_curves;
