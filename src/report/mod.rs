//! What people see: progress, plots, TensorBoard events.

pub mod atomic_file;
pub mod progress;
pub mod tensorboard;
