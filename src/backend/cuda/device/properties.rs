//! Properties reported by a device.

use super::Device;
use crate::error::Result;

/// Name and sizes of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Name reported by the driver, or `emulator`.
    pub name: String,
    /// Whether it is a GPU, so that measured times are meaningful.
    pub gpu: bool,
    /// Number of streaming multiprocessors.
    pub multiprocessors: usize,
    /// Size of the L2 cache in bytes.
    pub l2_bytes: usize,
}

impl Device {
    /// Queries the name and sizes.
    pub fn properties(&self) -> Result<Properties> {
        self.driver.properties()
    }
}
