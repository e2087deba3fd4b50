//! What a device says of itself.

use cudarc::driver::sys::CUdevice_attribute;

use crate::backend::cuda::device::{Device, Kind};
use crate::error::Result;

/// A device's name and sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// As the driver calls it, or `emulator`.
    pub name: String,
    /// Whether it is a GPU, where times mean something.
    pub gpu: bool,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of the L2 cache.
    pub l2_bytes: usize,
}

impl Device {
    /// Its properties.
    pub fn properties(&self) -> Result<Properties> {
        match self.kind() {
            Kind::Gpu(gpu) => {
                let failed = || gpu.failed("ask for its properties");
                let attribute = |attribute| gpu.context().attribute(attribute).map_err(failed());
                let multiprocessors =
                    attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
                let l2_bytes = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
                Ok(Properties {
                    name: gpu.context().name().map_err(failed())?,
                    gpu: true,
                    multiprocessors: multiprocessors as usize,
                    l2_bytes: l2_bytes as usize,
                })
            }
            Kind::Emulated(_) => {
                Ok(Properties { name: "emulator".into(), gpu: false, multiprocessors: 1, l2_bytes: 0 })
            }
        }
    }
}
