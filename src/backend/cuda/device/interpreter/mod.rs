//! PTX interpreter (crate `scenerank-ptx`): executes what nvcc made of the kernels.

mod sources;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use scenerank_ptx::compare::Comparison;
use scenerank_ptx::device::{Interpreter, Kernels, Request, TimingOptions};
use scenerank_ptx::machine::{Options, ProductSum};
use scenerank_ptx::timing::Parameters;

use super::driver::Observations;
use super::emulator::Emulator;
use super::host::{Executor, bug};
use super::kernel::{KernelFile, KernelInfo};
use super::launch::Launch;
use super::properties::Properties;
use crate::error::{Error, Result};

pub use sources::{Resources, architectures, kernels, resources, texts};

/// Name of the device.
const NAME: &str = "ptx";

/// Environment variables: architecture of the PTX, such as `80`; folder of `*.ptx` that replace those of the build; and
/// parameters of the timing model, such as `l2=300,cold=1`.
pub const ARCHITECTURE: &str = "SCENERANK_PTX_ARCH";
/// See [`ARCHITECTURE`].
pub const FOLDER: &str = "SCENERANK_PTX_DIR";
/// See [`ARCHITECTURE`].
pub const PARAMETERS: &str = "SCENERANK_PTX_TIME";

/// Largest difference from the emulator, relative to the largest value that a launch writes in a buffer: contraction to
/// fused multiply-adds and sums of tensor cores differ by some units of the last place.
const MOST_DIFFERENCE: f64 = 2e-5;
/// The same for values stored in bf16: a sum that falls on the other side of a rounding's edge differs by one unit.
const MOST_DIFFERENCE_BF16: f64 = 1.0 / 64.0;

/// What to interpret, and how.
#[derive(Clone)]
pub struct Interpretation {
    /// Parsed kernels ([`kernels`]).
    pub kernels: Arc<Kernels>,
    /// Whether each launch also runs on the emulator, and both memories are compared. A large difference is an error.
    pub compare: bool,
    /// Seed for the order of blocks and warps; launches of the branch are then postponed.
    pub seed: Option<u64>,
    /// Whether races are looked for. Timed launches look for none.
    pub races: bool,
    /// Timing model, if launches are timed.
    pub timing: Option<TimingOptions>,
}

impl Interpretation {
    /// Kernels of the architecture that the environment names, or of the latest one; races are looked for.
    pub fn from_environment() -> Result<Self> {
        let architecture = std::env::var(ARCHITECTURE).ok();
        let kernels = kernels(architecture.as_deref())?;
        Ok(Interpretation { kernels, compare: false, seed: None, races: true, timing: None })
    }

    /// The same with the timing model, and without races.
    pub fn timed(self) -> Result<Self> {
        let changes = std::env::var(PARAMETERS).unwrap_or_default();
        let parameters = Parameters::with(&changes)
            .map_err(|problem| Error::argument(PARAMETERS, problem, "give some such as l2=300,cold=1"))?;
        let registers = resources().into_iter().map(|(kernel, of)| (kernel, of.registers)).collect();
        Ok(Interpretation { timing: Some(TimingOptions { parameters, registers }), races: false, ..self })
    }
}

/// Runs launches by the interpreter.
pub(super) struct PtxExecutor {
    state: Mutex<State>,
    /// Emulator to compare with.
    emulator: Option<Emulator>,
}

struct State {
    interpreter: Interpreter,
    observed: Observations,
}

impl PtxExecutor {
    /// Looks up all kernels of `files`.
    pub(super) fn open(interpretation: Interpretation, files: &[KernelFile]) -> Result<Self> {
        if cfg!(installed) {
            return Err(sources::left_out());
        }
        let Interpretation { kernels, compare, seed, races, timing } = interpretation;
        let needed = files.iter().filter(|file| !file.is_for_warpgroups());
        for KernelInfo { name, .. } in needed.flat_map(|file| file.kernels) {
            if !kernels.contains_key(*name) {
                let problem = format!("the PTX has no kernel {name}");
                let remedy = format!("give {FOLDER} the PTX of all kernels, or build again");
                return Err(Error::Device { device: NAME.into(), problem, remedy });
            }
        }
        let emulator = if compare { Some(Emulator::open(None, files)?) } else { None };
        // The emulator sums one product after another.
        let products = if compare { ProductSum::Sequential } else { ProductSum::Exact };
        let options = Options { races, seed: seed.map_or(0, |seed| seed.max(1)), products };
        let state = State {
            interpreter: Interpreter::new(kernels, options, timing),
            observed: Observations::default(),
        };
        Ok(PtxExecutor { state: Mutex::new(state), emulator })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for PtxExecutor {
    fn device(&self) -> &'static str {
        NAME
    }

    fn properties(&self) -> Properties {
        Properties::of_cpu("PTX interpreter")
    }

    unsafe fn launch(&self, launch: Launch<'_>, on_branch: bool) -> Result<()> {
        let name = launch.kernel.name;
        let mut pointers = Vec::new();
        launch.for_each_address(|address| pointers.push(address));
        let request = Request {
            kernel: name,
            grid: launch.blocks,
            block: launch.kernel.threads,
            dynamic_shared_bytes: launch.kernel.dynamic_shared_bytes,
            arguments: launch.arguments,
            pointers: &pointers,
            on_branch,
        };
        let failed = |problem: String| bug(NAME, format!("{name}: {problem}"));
        let mut state = self.lock();
        let Some(emulator) = &self.emulator else {
            // SAFETY: guaranteed by the caller.
            return unsafe { state.interpreter.launch(&request) }.map_err(failed);
        };
        let other = || {
            // SAFETY: guaranteed by the caller.
            unsafe { emulator.launch(launch, on_branch) }.map_err(|error| error.to_string())
        };
        // SAFETY: guaranteed by the caller.
        let comparison = unsafe { state.interpreter.launch_beside(&request, other) }.map_err(failed)?;
        check(name, &comparison).map_err(failed)?;
        let compared = state.observed.comparisons.entry(name).or_default();
        compared.launches += 1;
        compared.equal += u64::from(comparison.is_equal());
        compared.all.add(comparison);
        Ok(())
    }

    fn branch_joined(&self) {
        self.lock().interpreter.branch_joined();
    }

    fn has(&self, kernel: &str) -> bool {
        self.lock().interpreter.has(kernel)
    }

    fn allocated(&self, address: u64, bytes: usize) {
        self.lock().interpreter.allocated(address, bytes as u64);
    }

    fn freed(&self, address: u64) {
        self.lock().interpreter.freed(address);
    }

    fn written(&self, address: u64, bytes: usize) {
        self.lock().interpreter.written(address, bytes as u64);
    }

    fn take_observations(&self) -> Observations {
        let mut state = self.lock();
        let times = state.interpreter.take_times();
        Observations { times, ..std::mem::take(&mut state.observed) }
    }
}

impl Drop for PtxExecutor {
    /// Says how the comparison with the emulator went, unless somebody has taken it.
    fn drop(&mut self) {
        let comparisons = self.take_observations().comparisons;
        let sum = |of: fn(&super::Compared) -> u64| comparisons.values().map(of).sum::<u64>();
        let worst = comparisons.iter().max_by(|a, b| a.1.all.worst.total_cmp(&b.1.all.worst));
        if let Some((name, compared)) = worst {
            tracing::info!(
                "device ptx:compare: {} launches of {} kernels, {} with the bits of the emulator; largest relative \
                 difference {:.1e} in {name}",
                sum(|compared| compared.launches),
                comparisons.len(),
                sum(|compared| compared.equal),
                compared.all.worst
            );
        }
    }
}

fn check(kernel: &str, comparison: &Comparison) -> std::result::Result<(), String> {
    if let Some(wrong) = &comparison.wrong {
        return Err(format!("PTX and emulator differ: {wrong}"));
    }
    let most = if kernel.contains("bf16") { MOST_DIFFERENCE_BF16 } else { MOST_DIFFERENCE };
    match comparison.worst <= most {
        true => Ok(()),
        false => Err(format!("PTX and emulator differ: {}", comparison.example)),
    }
}
