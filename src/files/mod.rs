//! File formats, and writing of files, independent of their content.

pub mod arrow;
pub mod atomic_file;
pub mod folder_lock;
pub mod mapped_file;
pub mod npy;
pub(crate) mod npy_header;
pub mod origin;
pub mod outputs;
pub mod recognise;
pub mod spill;
pub mod temporary;
pub mod tensor_file;
pub mod text;
