//! A device that executes PTX: the kernels of a program, device memory, and launches in the order of the calls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::compare::{Comparison, compare};
use crate::finding::{Finding, Findings};
use crate::kernel::Kernel;
use crate::machine::{Launch, Options, Outcome};
use crate::memory::Buffer;
use crate::timing::{Footprint, LaunchTime, Parameters, Timing};

/// Kernels by name.
pub type Kernels = HashMap<String, Kernel>;

/// Findings in full in the error of a launch.
const NAMED: usize = 2;

/// Parses the files of a program.
pub fn parse_kernels<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Kernels, String> {
    let mut kernels = Kernels::new();
    for text in texts {
        kernels.extend(crate::parse(text)?.kernels.into_iter().map(|kernel| (kernel.name.clone(), kernel)));
    }
    Ok(kernels)
}

/// How launches are timed.
#[derive(Clone, Debug, Default)]
pub struct TimingOptions {
    /// Parameters of the model.
    pub parameters: Parameters,
    /// Registers per thread by kernel; 64 where unknown.
    pub registers: HashMap<String, u32>,
}

/// A launch, as the host describes it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Name of the kernel.
    pub kernel: &'a str,
    /// Blocks by dimension.
    pub grid: [u32; 3],
    /// Threads per block by dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory per block.
    pub dynamic_shared_bytes: u32,
    /// Bytes of all parameters.
    pub arguments: &'a [u8],
    /// Device addresses among the parameters. The launch may access the buffers that they point into.
    pub pointers: &'a [u64],
    /// Whether it goes to the branch, a stream beside that of the other launches.
    pub on_branch: bool,
}

/// Launches that may not have ended when the next one begins, by number.
///
/// A launch may begin when all blocks of the one ahead in its stream have let it (`griddepcontrol.launch_dependents`). They
/// do so after their own wait. So only the launch ahead may still run, and what went to the branch since it was joined.
#[derive(Default)]
struct InFlight {
    /// Number of launches so far.
    count: u64,
    /// The latest launch of the main stream.
    ahead: Option<u64>,
    /// Launches of the branch since it was last joined.
    branch: Vec<u64>,
}

impl InFlight {
    /// Notes in each buffer whether it may still be written when the next launch begins. Returns the launch's number.
    fn begin(&mut self, buffers: &mut [Buffer], on_branch: bool) -> u64 {
        for buffer in buffers {
            let may_run = |writer| on_branch || self.ahead == Some(writer) || self.branch.contains(&writer);
            buffer.in_flight = buffer.last_writer.is_some_and(may_run);
        }
        self.count += 1;
        match on_branch {
            true => self.branch.push(self.count),
            false => self.ahead = Some(self.count),
        }
        self.count
    }
}

/// A device.
pub struct Interpreter {
    kernels: Arc<Kernels>,
    options: Options,
    timing: Option<TimingOptions>,
    /// Buffers by address.
    buffers: BTreeMap<u64, Buffer>,
    in_flight: InFlight,
    times: Vec<LaunchTime>,
}

impl Interpreter {
    /// Device without memory. Launches are timed if `timing` is given.
    pub fn new(kernels: Arc<Kernels>, options: Options, timing: Option<TimingOptions>) -> Self {
        let (buffers, in_flight) = (BTreeMap::new(), InFlight::default());
        Interpreter { kernels, options, timing, buffers, in_flight, times: Vec::new() }
    }

    /// Whether the program has a kernel of this name.
    pub fn has(&self, kernel: &str) -> bool {
        self.kernels.contains_key(kernel)
    }

    /// Takes note of memory that was allocated.
    pub fn allocated(&mut self, address: u64, bytes: u64) {
        if bytes > 0 {
            self.buffers.insert(address, Buffer::new(address, bytes));
        }
    }

    /// Takes note of memory that is freed.
    pub fn freed(&mut self, address: u64) {
        self.buffers.remove(&address);
    }

    /// Takes note of bytes that the host wrote.
    pub fn written(&mut self, address: u64, bytes: u64) {
        if let Some((_, buffer)) = self.buffers.range_mut(..=address).next_back()
            && address + bytes <= buffer.end()
        {
            let from = (address - buffer.start) as usize;
            buffer.written[from..from + bytes as usize].fill(1);
        }
    }

    /// Takes note that the main stream waits for the branch.
    pub fn branch_joined(&mut self) {
        self.in_flight.branch.clear();
    }

    /// Removes and returns the modelled times of the launches since the last call.
    pub fn take_times(&mut self) -> Vec<LaunchTime> {
        std::mem::take(&mut self.times)
    }

    /// Runs a launch. Fails if it has findings.
    ///
    /// # Safety
    /// All noted buffers must be allocated, and nothing else may access those that the launch is given.
    pub unsafe fn launch(&mut self, request: &Request<'_>) -> Result<(), String> {
        let mut buffers = self.take_buffers(request.pointers);
        let number = self.in_flight.begin(&mut buffers, request.on_branch);
        // SAFETY: guaranteed by the caller.
        let outcome = unsafe { self.run(request, &mut buffers) };
        self.put_back(buffers, number);
        self.conclude(outcome?)
    }

    /// Runs a launch here and, from the same memory, by `other`, and compares both memories. This device's goes on. Fails
    /// if the launch has findings, or if `other` fails.
    ///
    /// # Safety
    /// As for [`Interpreter::launch`].
    pub unsafe fn launch_beside(
        &mut self,
        request: &Request<'_>,
        other: impl FnOnce() -> Result<(), String>,
    ) -> Result<Comparison, String> {
        let mut buffers = self.take_buffers(request.pointers);
        let number = self.in_flight.begin(&mut buffers, request.on_branch);
        // SAFETY: guaranteed by the caller.
        let contents = |buffer: &Buffer| unsafe { buffer.contents() }.to_vec();
        let before: Vec<Vec<u8>> = buffers.iter().map(contents).collect();
        let others = other();
        let after: Vec<Vec<u8>> = buffers.iter().map(contents).collect();
        for (buffer, before) in buffers.iter().zip(&before) {
            // SAFETY: guaranteed by the caller.
            unsafe { buffer.contents() }.copy_from_slice(before);
        }
        // SAFETY: guaranteed by the caller.
        let outcome = unsafe { self.run(request, &mut buffers) };
        // SAFETY: guaranteed by the caller.
        let comparison = unsafe { compare(&buffers, &after, request.kernel.contains("bf16")) };
        self.put_back(buffers, number);
        others?;
        self.conclude(outcome?)?;
        Ok(comparison)
    }

    /// Buffers that the pointers point into, sorted by address.
    fn take_buffers(&mut self, pointers: &[u64]) -> Vec<Buffer> {
        let mut starts: Vec<u64> = pointers
            .iter()
            .filter_map(|&pointer| {
                let (start, buffer) = self.buffers.range(..=pointer).next_back()?;
                (pointer < buffer.end()).then_some(*start)
            })
            .collect();
        starts.sort_unstable();
        starts.dedup();
        starts.iter().filter_map(|start| self.buffers.remove(start)).collect()
    }

    /// Takes back the buffers of the launch with this number.
    fn put_back(&mut self, buffers: Vec<Buffer>, number: u64) {
        for mut buffer in buffers {
            buffer.forget_launch(number);
            self.buffers.insert(buffer.start, buffer);
        }
    }

    /// # Safety
    /// As for [`Interpreter::launch`].
    unsafe fn run(&self, request: &Request<'_>, buffers: &mut [Buffer]) -> Result<Outcome, String> {
        let kernel = self.kernels.get(request.kernel).ok_or("the PTX has no such kernel")?;
        let launch = Launch {
            kernel,
            grid: request.grid,
            block: request.block,
            dynamic_shared_bytes: request.dynamic_shared_bytes,
            arguments: request.arguments,
        };
        let timing = self.timing.as_ref().map(|options| {
            let registers = options.registers.get(request.kernel).copied();
            let footprint =
                Footprint { threads: launch.threads(), shared_bytes: launch.shared_bytes(), registers };
            Timing::new(kernel, buffers, footprint, options.parameters.clone())
        });
        // SAFETY: guaranteed by the caller.
        unsafe { launch.run(buffers, &self.options, timing) }
    }

    fn conclude(&mut self, outcome: Outcome) -> Result<(), String> {
        self.times.extend(outcome.time);
        if outcome.findings.is_empty() { Ok(()) } else { Err(words(&outcome.findings)) }
    }
}

/// The first findings in full, and the kinds of the others.
fn words(findings: &Findings) -> String {
    let mut kinds: Vec<&Finding> = Vec::new();
    for finding in findings.values() {
        if kinds.iter().all(|other| other.what != finding.what) {
            kinds.push(finding);
        }
    }
    let (full, rest) = kinds.split_at(kinds.len().min(NAMED));
    let mut words: Vec<String> = full.iter().map(|finding| finding.to_string()).collect();
    words.extend(rest.iter().map(|finding| finding.what.to_string()));
    words.join("; ")
}
