//! Check of the family of products when a device opens.
//!
//! All products of an open device use one family. bf16 has two: mma.sync on every GPU, and wgmma on GPUs of compute
//! capability 9.0. The user names one ([`Kernels`](super::kernels::Kernels)).

use crate::backend::cuda::device::Device;
use crate::backend::cuda::launchers::linear::{Format, StoredFormat};
use crate::error::{Error, Result};

/// Checks that `device` has the products of `format`.
pub fn check(device: &Device, format: Format) -> Result<()> {
    if format != Format::Bf16Warpgroup || StoredFormat::BF16_WARPGROUP.runs_on(device) {
        return Ok(());
    }
    Err(Error::argument(
        "--kernels",
        format!("{} has no machine code of the products by wgmma", device.properties()?.name),
        "use --kernels mma, or a GPU of compute capability 9.0 and a build for 90a",
    ))
}
