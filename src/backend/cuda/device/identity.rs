//! What a measurement of the kernels depends on, so that it can be kept: the GPU, its driver, and the kernels themselves.

use std::fs;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::Device;
use crate::error::Result;

/// Version of the kernel driver on Linux, such as `580.65.06`.
const DRIVER_VERSION: &str = "/sys/module/nvidia/version";

/// A GPU with its driver and the kernels of this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name reported by the driver.
    pub name: String,
    /// Unique id of the GPU, 32 hexadecimal digits.
    pub id: String,
    /// Newest CUDA version that the driver supports, and the driver's own version where the system tells it.
    pub driver: String,
    /// Version of this program, and the checksum of its kernels' machine code.
    pub program: String,
}

impl Identity {
    /// Identity of the GPU with this name and id, for kernels with this machine `code`.
    pub(super) fn new<'a>(
        name: String,
        id: [u8; 16],
        cuda: &str,
        code: impl Iterator<Item = &'a [u8]>,
    ) -> Self {
        let own = fs::read_to_string(DRIVER_VERSION).unwrap_or_default();
        let mut checksum = Xxh3::new();
        code.for_each(|code| checksum.update(code));
        Identity {
            name,
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            driver: format!("CUDA {cuda} {}", own.trim()).trim_end().into(),
            program: format!("{} {:016x}", env!("CARGO_PKG_VERSION"), checksum.digest()),
        }
    }
}

impl Device {
    /// Identity of a GPU whose warpgroups multiply (compute capability 9.0); `None` for all other devices.
    pub(crate) fn warpgroup_identity(&self) -> Result<Option<Identity>> {
        self.driver.warpgroup_identity()
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn other_code_is_another_program() {
        let of = |code: &[&'static [u8]]| Identity::new("gpu".into(), [1; 16], "13.0", code.iter().copied());
        let program = |code: &[&'static [u8]]| of(code).program;
        assert_eq!(of(&[b"one", b"two"]), of(&[b"one", b"two"]));
        assert_ne!(program(&[b"one", b"two"]), program(&[b"one", b"too"]));
        assert_eq!(of(&[]).id, "01".repeat(16));
        assert!(of(&[]).driver.starts_with("CUDA 13.0"), "{}", of(&[]).driver);
    }
}
