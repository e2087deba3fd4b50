//! What people see: progress, plots, TensorBoard events.

pub mod csv;
pub mod plots;
pub mod progress;
pub mod table;
