//! Names of devices, and the only place that turns a name into a backend.

use std::fmt;
use std::str::FromStr;
use std::sync::Once;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::device::Device as KernelDevice;
use crate::backend::cuda::device::interpreter::Interpretation;
use crate::backend::cuda::launchers;
use crate::backend::cuda::launchers::linear::{Format, StoredFormat};
use crate::backend::family;
use crate::backend::kernels::Kernels;
use crate::backend::reference::Reference;
use crate::error::{Error, Result};
use crate::ranks::Ranks;

/// Device that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first usable GPU, or the CPU if there is none.
    #[default]
    Auto,
    /// CPU, on all threads of rayon's pool.
    Cpu,
    /// Plain loops on the CPU. Slow; for checks.
    Reference,
    /// The CUDA kernels, emulated on the CPU. Slow; for checks.
    Emulated,
    /// The PTX of the CUDA kernels, interpreted on the CPU. Slower still; for checks.
    Ptx {
        /// Whether each launch also runs emulated, and both memories are compared.
        compare: bool,
    },
    /// NVIDIA GPU with this index.
    Cuda(usize),
}

/// Number format of the computation.
///
/// All formats but `fp64` compute sums of products, batch norm, the loss, the master weights and Adam in single precision.
/// They differ in the operands of matrix products. `bf16` also stores activations in bf16 between the stages of a step.
/// `bf16` and `bf16x3` need a device that runs the CUDA kernels. The CPU device accepts `bf16` too: it rounds what the
/// kernels store in bf16, and multiplies in bf16 where the processor has matrix instructions for it (AMX). Elsewhere it shows the
/// loss of accuracy and saves no time.
///
/// A step is compared with one in double precision that makes the same ReLU decisions. Embeddings agree within a relative
/// distance of 1e-4 and gradients within 1e-3 in `fp32` and `bf16x3`; within 2e-2 and 0.15 in `bf16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    Fp32,
    /// Double precision. Only on the reference device.
    Fp64,
    /// Activations, their gradients and a copy of the weights in bf16 (8 significant bits); products on tensor cores. On
    /// devices cuda, emulated, ptx and cpu (which only rounds, unless it has AMX).
    Bf16,
    /// Products on tensor cores, each operand split into two bf16 values (16 significant bits). On devices cuda,
    /// emulated and ptx.
    Bf16x3,
}

impl Precision {
    /// Whether there are two families of products in this format.
    fn has_families(self) -> bool {
        matches!(self, Precision::Bf16 | Precision::Bf16x3)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Fp64 => "fp64",
            Precision::Bf16 => "bf16",
            Precision::Bf16x3 => "bf16x3",
        })
    }
}

/// How a device computes. A [`Precision`] alone leaves the family of products to the device, for batches of the paper's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Number format.
    pub precision: Precision,
    /// Family of the products on tensor cores.
    pub kernels: Kernels,
    /// Number of triples of a batch. A device that chooses the family times batches of about this size.
    pub triples: usize,
}

impl Arithmetic {
    /// Single precision.
    pub const FP32: Arithmetic = Arithmetic::new(Precision::Fp32, Kernels::Auto);

    /// This format and family, for batches of the paper's size.
    pub const fn new(precision: Precision, kernels: Kernels) -> Self {
        Arithmetic { precision, kernels, triples: family::PAPER_TRIPLES }
    }

    /// Format of the CUDA kernels' products; by mma.sync unless wgmma is named, and a device may choose otherwise
    /// ([`family`]). `None` for formats that they do not have.
    pub fn format(self) -> Option<Format> {
        match self.precision {
            Precision::Fp32 => Some(Format::Fp32),
            Precision::Fp64 => None,
            Precision::Bf16 if self.kernels == Kernels::Wgmma => Some(Format::Bf16Warpgroup),
            Precision::Bf16 => Some(Format::Bf16),
            Precision::Bf16x3 if self.kernels == Kernels::Wgmma => Some(Format::Bf16x3Warpgroup),
            Precision::Bf16x3 => Some(Format::Bf16x3),
        }
    }

    /// Checks that the family has products in this precision.
    pub(crate) fn check(self) -> Result<()> {
        if self.kernels != Kernels::Wgmma || self.precision.has_families() {
            return Ok(());
        }
        let problem = format!("wgmma multiplies in bf16 and bf16x3, and the precision is {}", self.precision);
        Err(Error::argument("--kernels", problem, "add --precision bf16 or bf16x3, or leave --kernels out"))
    }
}

impl From<Precision> for Arithmetic {
    fn from(precision: Precision) -> Self {
        Arithmetic::new(precision, Kernels::Auto)
    }
}

/// Work that runs on any backend.
pub trait BackendTask {
    /// Result of the work.
    type Output;
    /// Runs the work on a backend.
    fn run<B: Backend>(self, backend: B) -> Result<Self::Output>;
}

/// Tells the family of the products.
struct Family;

impl BackendTask for Family {
    type Output = Kernels;

    fn run<B: Backend>(self, backend: B) -> Result<Kernels> {
        Ok(backend.description()?.kernels)
    }
}

/// Opens the PTX interpreter.
fn interpreted(compare: bool) -> Result<KernelDevice> {
    let interpretation = Interpretation::from_environment()?;
    launchers::interpreted(Interpretation { compare, ..interpretation })
}

/// Runs `task` on the CUDA backend. The format of products decides the element type of stored activations.
pub(crate) fn run_kernels<T: BackendTask>(
    device: KernelDevice,
    format: Format,
    task: T,
) -> Result<T::Output> {
    match format {
        Format::Bf16 => task.run(Cuda::new(device, StoredFormat::BF16)?),
        Format::Bf16Warpgroup => task.run(Cuda::new(device, StoredFormat::BF16_WARPGROUP)?),
        Format::Fp32 => task.run(Cuda::new(device, StoredFormat::FP32)?),
        Format::Bf16x3 => task.run(Cuda::new(device, StoredFormat::BF16X3)?),
        Format::Bf16x3Warpgroup => task.run(Cuda::new(device, StoredFormat::BF16X3_WARPGROUP)?),
    }
}

impl Device {
    /// The device of this rank: the ranks on a machine take its GPUs in turn, from the one that is named. A rank that sees only
    /// its own GPU takes that.
    pub fn of_rank(self, ranks: &Ranks) -> Device {
        let place = ranks.rank_on_machine();
        match (self, if place == 0 { 0 } else { KernelDevice::gpu_count() }) {
            (device, 0 | 1) => device,
            (Device::Auto, gpus) => Device::Cuda(place % gpus),
            (Device::Cuda(index), gpus) => Device::Cuda((index + place) % gpus),
            (device, _) => device,
        }
    }

    /// Whether this device may have both families of products in this precision.
    pub(crate) fn has_families(self, precision: Precision) -> bool {
        precision.has_families() && !matches!(self, Device::Cpu | Device::Reference)
    }

    /// Family of the products of this device, if it is opened now; `Auto` for a device or a precision without these.
    pub fn family(self, arithmetic: impl Into<Arithmetic>) -> Result<Kernels> {
        self.run(arithmetic, Family)
    }

    /// Runs `task` on this device.
    pub fn run<T: BackendTask>(self, arithmetic: impl Into<Arithmetic>, task: T) -> Result<T::Output> {
        let arithmetic = arithmetic.into();
        let Arithmetic { precision, kernels, triples } = arithmetic;
        arithmetic.check()?;
        let run_kernels = |device: KernelDevice, format: Format, task: T| {
            let format = family::format_of(&device, format, kernels, triples)?;
            run_kernels(device, format, task)
        };
        let unavailable = |problem: String, remedy: &str| {
            Err(Error::Device { device: self.to_string(), problem, remedy: remedy.into() })
        };
        match (self, precision, arithmetic.format()) {
            (Device::Cpu | Device::Reference, ..) if kernels != Kernels::Auto => unavailable(
                format!("multiplies without tensor cores, so not by {kernels}"),
                "use --kernels auto, or --device cuda or emulated",
            ),
            (Device::Reference, Precision::Fp64, _) => task.run(Reference::<f64>::new()),
            (Device::Reference, Precision::Fp32, _) => task.run(Reference::<f32>::new()),
            (Device::Cpu, Precision::Fp32, _) => task.run(Cpu::new()),
            (Device::Cpu, Precision::Bf16, _) => task.run(Cpu::rounding_to_bf16()),
            (Device::Emulated, _, Some(format)) => run_kernels(launchers::emulated(None)?, format, task),
            (Device::Ptx { compare }, _, Some(format)) => run_kernels(interpreted(compare)?, format, task),
            (Device::Cuda(index), _, Some(format)) => run_kernels(launchers::gpu(index)?, format, task),
            (Device::Auto, _, Some(format)) => match launchers::gpu(0) {
                Ok(gpu) => run_kernels(gpu, format, task),
                Err(reason) if precision == Precision::Fp32 && kernels == Kernels::Auto => {
                    static SAID: Once = Once::new();
                    SAID.call_once(|| {
                        let threads = rayon::current_num_threads();
                        let reason = match &reason {
                            Error::Device { problem, .. } => problem.clone(),
                            other => other.to_string(),
                        };
                        tracing::info!("device auto: {reason}, computing on the CPU ({threads} threads)");
                    });
                    task.run(Cpu::new())
                }
                Err(reason) => unavailable(
                    match precision {
                        Precision::Fp32 => format!("--kernels {kernels} needs a GPU ({reason})"),
                        _ => format!("{precision} needs a GPU ({reason})"),
                    },
                    "use --precision fp32 and --kernels auto, or --device emulated to try it",
                ),
            },
            (_, _, None) => unavailable(
                "does not compute in fp64".into(),
                "use --precision fp32, or --device reference for fp64",
            ),
            (Device::Cpu | Device::Reference, _, Some(_)) => unavailable(
                format!("does not compute in {precision}"),
                "use --precision fp32, or --device cuda or emulated",
            ),
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
            Device::Ptx { compare: false } => write!(f, "ptx"),
            Device::Ptx { compare: true } => write!(f, "ptx:compare"),
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
            "ptx" => Ok(Device::Ptx { compare: false }),
            "ptx:compare" => Ok(Device::Ptx { compare: true }),
            "cuda" => Ok(Device::Cuda(0)),
            _ => {
                let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                index.map(Device::Cuda).ok_or_else(|| {
                    format!(
                        "no device is called {name:?}; use auto, cpu, reference, emulated, ptx, cuda or cuda:INDEX"
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
