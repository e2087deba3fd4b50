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
    /// Newest CUDA version that the driver supports, such as `13.0`; empty without a driver.
    pub driver: String,
    /// Highest clocks of the multiprocessors and of the memory in MHz; `None` if the device has none.
    pub clocks_mhz: Option<[u32; 2]>,
}

impl Properties {
    /// Properties of a device on the CPU.
    pub(super) fn of_cpu(name: &str) -> Self {
        Properties {
            name: name.into(),
            gpu: false,
            multiprocessors: 1,
            l2_bytes: 0,
            driver: String::new(),
            clocks_mhz: None,
        }
    }
}

impl Device {
    /// Queries the name and sizes.
    pub fn properties(&self) -> Result<Properties> {
        self.driver.properties()
    }
}
