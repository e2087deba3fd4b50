//! File formats and how files are written, whatever they hold.

pub mod arrow;
pub mod atomic_file;
pub mod npy;
pub mod tensor_file;
