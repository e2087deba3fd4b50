//! What a device says of itself.

use super::Device;
use crate::error::Result;

/// A device's name and sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// The driver's name for it, or `emulator`.
    pub name: String,
    /// Whether it is a GPU, where times mean something.
    pub gpu: bool,
    /// Number of streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of the L2 cache.
    pub l2_bytes: usize,
}

impl Device {
    /// Name and sizes.
    pub fn properties(&self) -> Result<Properties> {
        self.driver.properties()
    }
}
