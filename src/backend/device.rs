//! Devices by name, and the one place where a name becomes a backend's type.

use std::fmt;
use std::str::FromStr;
use std::sync::Once;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::device::Device as KernelDevice;
use crate::backend::reference::Reference;
use crate::error::{Error, Result};

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first usable GPU, else the CPU.
    #[default]
    Auto,
    /// All of rayon's threads.
    Cpu,
    /// Plain loops, for checking; slow.
    Reference,
    /// The GPU's kernels on the CPU, for checking them; slow.
    Emulated,
    /// An NVIDIA GPU by its index.
    Cuda(usize),
}

/// Number format of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    Fp32,
    /// Double precision; on the reference device only.
    Fp64,
}

/// Work that runs on any backend.
pub trait BackendTask {
    /// What it gives.
    type Output;
    /// Runs it.
    fn run<B: Backend>(self, backend: B) -> Result<Self::Output>;
}

impl Device {
    /// Runs `task` on this device.
    pub fn run<T: BackendTask>(self, precision: Precision, task: T) -> Result<T::Output> {
        let unavailable = |problem: &str, remedy: &str| {
            Err(Error::Device { device: self.to_string(), problem: problem.into(), remedy: remedy.into() })
        };
        match (self, precision) {
            (Device::Auto, Precision::Fp32) => match KernelDevice::gpu(0) {
                Ok(gpu) => task.run(Cuda::new(gpu)?),
                Err(reason) => {
                    static SAID: Once = Once::new();
                    SAID.call_once(|| tracing::info!("device auto: computing on the CPU ({reason})"));
                    task.run(Cpu::new())
                }
            },
            (Device::Cpu, Precision::Fp32) => task.run(Cpu::new()),
            (Device::Reference, Precision::Fp32) => task.run(Reference::<f32>::new()),
            (Device::Reference, Precision::Fp64) => task.run(Reference::<f64>::new()),
            (Device::Emulated, Precision::Fp32) => task.run(Cuda::new(KernelDevice::emulated(None)?)?),
            (Device::Cuda(index), Precision::Fp32) => task.run(Cuda::new(KernelDevice::gpu(index)?)?),
            (Device::Auto | Device::Cpu | Device::Emulated | Device::Cuda(_), Precision::Fp64) => {
                unavailable("computes in fp32 only", "use --precision fp32, or --device reference for fp64")
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => write!(f, "auto"),
            Device::Cpu => write!(f, "cpu"),
            Device::Reference => write!(f, "reference"),
            Device::Emulated => write!(f, "emulated"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "reference" => Ok(Device::Reference),
            "emulated" => Ok(Device::Emulated),
            "cuda" => Ok(Device::Cuda(0)),
            _ => {
                let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                index.map(Device::Cuda).ok_or_else(|| {
                    format!(
                        "no device is called {name:?}; use auto, cpu, reference, emulated, cuda or cuda:INDEX"
                    )
                })
            }
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        name.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}
