//! Families of the products' kernels: the option `--kernels`, and what stands in a run's record.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Instructions that multiply matrices on tensor cores. All products of a run use the same ones, so no result depends on the
/// size of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Kernels {
    /// The device's choice: wgmma on a GPU of compute capability 9.0 that finds it right and faster when it opens, otherwise mma.
    #[default]
    Auto,
    /// mma.sync, by warps. On every device that runs the CUDA kernels.
    Mma,
    /// wgmma, by warpgroups. Only in bf16 and bf16x3, on GPUs of compute capability 9.0 and on the devices emulated and ptx.
    Wgmma,
}

impl Kernels {
    /// Whether a run with this record may be continued with this option: `auto` keeps what is recorded. A run that recorded
    /// none, on a device without a choice or by an older version, used mma.sync if it used tensor cores.
    pub fn may_continue_as(self, now: Kernels) -> bool {
        now == self || now == Kernels::Auto || (self, now) == (Kernels::Auto, Kernels::Mma)
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kernels::Auto => "auto",
            Kernels::Mma => "mma",
            Kernels::Wgmma => "wgmma",
        })
    }
}
