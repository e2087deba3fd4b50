//! What people see: progress, plots, TensorBoard events.

pub mod progress;
