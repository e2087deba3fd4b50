//! Runs a kernel. Blocks run one after another. The warps of a block run until they wait at its barrier. The lanes of a
//! warp run together while they are at one instruction; lanes that are behind run first.

mod access;
mod clocks;
mod collective;
mod descriptor;
mod global;
mod mbarrier;
mod mma;
mod shared;
mod step;
mod warp;
mod wgmma;

use std::collections::{BTreeMap, HashMap};

use crate::finding::{Finding, Findings};
use crate::kernel::Kernel;
use crate::memory::Buffer;
use crate::timing::{LaunchTime, Timing};
use clocks::Clocks;
use global::Fences;
use mbarrier::Barrier;
use shared::SharedCell;
use warp::{Thread, Warp};
use wgmma::Together;

pub use mma::ProductSum;
pub use warp::Registers;

/// How launches are executed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether races are looked for; they take half of the running time.
    pub races: bool,
    /// Seed for the order of blocks and warps; 0 for ascending order.
    pub seed: u64,
    /// How a product of matrix fragments is summed.
    pub products: ProductSum,
}

impl Default for Options {
    /// Races are looked for, blocks run in ascending order, and products are exact.
    fn default() -> Self {
        Options { races: true, seed: 0, products: ProductSum::Exact }
    }
}

/// A launch of a kernel.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Blocks by dimension.
    pub grid: [u32; 3],
    /// Threads per block by dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory per block.
    pub dynamic_shared_bytes: u32,
    /// Bytes of all parameters.
    pub arguments: &'a [u8],
}

/// Outcome of a launch.
pub struct Outcome {
    /// Defects found.
    pub findings: Findings,
    /// Whether all blocks ran to their end.
    pub complete: bool,
    /// Number of warp instructions.
    pub instructions: u64,
    /// Modelled time, if it was asked for.
    pub time: Option<LaunchTime>,
}

impl Launch<'_> {
    /// Number of threads per block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Bytes of shared memory per block.
    pub fn shared_bytes(&self) -> u32 {
        self.kernel.dynamic_offset.map_or(self.kernel.static_bytes, |at| at + self.dynamic_shared_bytes)
    }

    /// Checks what a driver refuses, and the size of the parameters.
    pub fn check(&self) -> Result<(), String> {
        let kernel = self.kernel;
        let declared = kernel.params.last().map_or(0, |param| param.offset + param.bytes) as usize;
        if declared != self.arguments.len() {
            return Err(format!(
                "parameters of {declared} bytes are declared, and {} are given",
                self.arguments.len()
            ));
        }
        let threads = self.threads();
        if threads == 0 || threads > 1024 || (kernel.max_threads != 0 && threads > kernel.max_threads) {
            return Err(format!(
                "{threads} threads per block, and at most {} are declared",
                kernel.max_threads
            ));
        }
        if self.grid.contains(&0) || self.grid[1] > 65_535 || self.grid[2] > 65_535 {
            return Err(format!("the driver refuses a grid of {:?}", self.grid));
        }
        if kernel.static_bytes > 49_152 {
            return Err(format!("{} bytes of static shared memory", kernel.static_bytes));
        }
        if kernel.dynamic_offset.is_some() != (self.dynamic_shared_bytes > 0) {
            return Err(format!(
                "dynamic shared memory is declared at {:?}, and {} bytes are given",
                kernel.dynamic_offset, self.dynamic_shared_bytes
            ));
        }
        Ok(())
    }

    /// Runs the launch on `buffers`, which are sorted by address.
    ///
    /// # Safety
    /// The buffers must be allocated memory, and nothing else may access it meanwhile.
    pub unsafe fn run(
        &self,
        buffers: &mut [Buffer],
        options: &Options,
        timing: Option<Box<Timing>>,
    ) -> Result<Outcome, String> {
        self.check()?;
        let mut machine = Machine::new(self, buffers, options, timing);
        let complete = machine.run();
        let Machine { timing, findings, executed, .. } = machine;
        let time = timing.map(|timing| timing.finish_launch(self));
        Ok(Outcome { findings, complete, instructions: executed, time })
    }
}

/// State of a running launch.
struct Machine<'a> {
    kernel: &'a Kernel,
    /// Parameter memory.
    param: &'a [u8],
    grid: [u32; 3],
    block: [u32; 3],
    /// Threads per block.
    threads: u32,
    buffers: &'a mut [Buffer],
    options: &'a Options,
    findings: Findings,
    shared: Vec<u8>,
    /// State of each byte of shared memory (`shared.rs`).
    shared_state: Vec<u8>,
    shared_cells: Vec<SharedCell>,
    /// Clocks of the running block's warps, if its warps meet at barriers in shared memory.
    clocks: Option<Clocks>,
    /// Those barriers, by offset in shared memory.
    barriers: BTreeMap<usize, Barrier>,
    /// Products in flight that read each pair of bytes of shared memory. Empty in kernels without clocks.
    product_reads: Vec<u16>,
    /// By group of four warps: what its warps execute together.
    together: Vec<Vec<Together>>,
    /// By warp: registers of each of its threads (`setmaxnreg`).
    granted: Vec<u32>,
    /// Barriers that the running block has passed, plus one.
    epoch: u32,
    block_index: [u32; 3],
    block_linear: u32,
    /// Fences by thread of blocks that have ended and executed an atomic operation.
    over: HashMap<u32, Fences>,
    /// Epoch of the running block's last fence; 0 before the first.
    fence_epoch: u32,
    /// Whether the running block has executed an atomic operation.
    atomics: bool,
    /// Whether the block executed a fence after an atomic operation. It then sees what other blocks wrote before their fences.
    acquired: bool,
    /// Index of the buffer that was accessed last.
    last: usize,
    executed: u64,
    /// Whether the launch cannot go on.
    failed: bool,
    timing: Option<Box<Timing>>,
}

impl<'a> Machine<'a> {
    fn new(
        launch: &Launch<'a>,
        buffers: &'a mut [Buffer],
        options: &'a Options,
        timing: Option<Box<Timing>>,
    ) -> Self {
        let bytes = launch.shared_bytes() as usize;
        Machine {
            kernel: launch.kernel,
            param: launch.arguments,
            grid: launch.grid,
            block: launch.block,
            threads: launch.threads(),
            buffers,
            options,
            findings: Findings::new(),
            shared: vec![0; bytes],
            shared_state: vec![0; bytes],
            shared_cells: vec![SharedCell::default(); bytes],
            clocks: None,
            barriers: BTreeMap::new(),
            product_reads: Vec::new(),
            together: Vec::new(),
            granted: Vec::new(),
            epoch: 1,
            block_index: [0; 3],
            block_linear: 0,
            over: HashMap::new(),
            fence_epoch: 0,
            atomics: false,
            acquired: false,
            last: 0,
            executed: 0,
            failed: false,
            timing,
        }
    }

    fn find(&mut self, what: &'static str, thread: Thread, details: impl FnOnce() -> String) {
        let (kernel, block, pc) = (self.kernel, self.block_index, thread.pc);
        let finding = self.findings.entry((pc, what)).or_insert_with(|| {
            let inst = &kernel.code[pc as usize];
            let text = &kernel.texts[pc as usize];
            Finding {
                what,
                place: format!("{}, PTX line {} `{text}`", kernel.place(pc), inst.ptx_line),
                count: 0,
                first: format!("block {block:?}, thread {}: {}", thread.index, details()),
            }
        });
        finding.count += 1;
    }

    /// Runs all blocks. Returns whether they came to their end.
    fn run(&mut self) -> bool {
        let [x, y, z] = self.grid;
        let count = x as usize * y as usize * z as usize;
        for linear in shuffled(count, self.options.seed, 0) {
            let linear = linear as u32;
            self.block_linear = linear;
            self.block_index = [linear % x, linear / x % y, linear / (x * y)];
            self.run_block();
            if self.failed {
                return false;
            }
        }
        true
    }

    fn run_block(&mut self) {
        self.shared.fill(0xff);
        self.shared_state.fill(shared::UNWRITTEN);
        self.shared_cells.fill(SharedCell::default());
        self.epoch = 1;
        self.fence_epoch = 0;
        self.atomics = false;
        self.acquired = false;
        let count = self.threads.div_ceil(32) as usize;
        if self.kernel.is_asynchronous() {
            self.clocks = Some(Clocks::new(count, self.shared.len()));
            self.barriers.clear();
            self.product_reads = vec![0; self.shared.len().div_ceil(2)];
            self.together.clear();
            self.granted = vec![wgmma::registers_at_launch(self.threads); count];
        }
        let mut warps: Vec<Warp> = (0..count).map(|i| self.start_warp(i as u32)).collect();
        loop {
            let mut progressed = false;
            let salt = u64::from(self.epoch) << 32 | u64::from(self.block_linear);
            for i in shuffled(count, self.options.seed, salt) {
                let warp = &mut warps[i];
                self.look_again(warp);
                if warp.running != 0 {
                    progressed = true;
                    self.run_warp(warp);
                }
            }
            if warps.iter().all(|warp| warp.exited == u32::MAX) {
                break;
            }
            if warps.iter().all(Warp::is_blocked) {
                self.pass_barrier(&mut warps);
            } else if !progressed {
                self.report_deadlock(&warps);
                break;
            }
        }
        warps.iter().for_each(|warp| self.check_products(warp));
        if let Some(timing) = &mut self.timing {
            timing.end_block(warps.iter_mut().filter_map(|warp| warp.time.as_deref_mut()).collect());
        }
        if self.atomics {
            let of_threads = warps.iter().flat_map(|warp| warp.fences).collect();
            self.over.insert(self.block_linear, Fences { of_threads, last_epoch: self.fence_epoch });
        }
    }

    /// Lets all warps go on that wait at the block's barrier.
    fn pass_barrier(&mut self, warps: &mut [Warp]) {
        self.epoch += 1;
        if let Some(clocks) = &mut self.clocks {
            clocks.barrier();
        }
        if let Some(timing) = &mut self.timing {
            let mut pc = 0;
            let waiting = warps.iter_mut().filter(|warp| warp.exited != u32::MAX);
            let times = waiting.filter_map(|warp| {
                pc = warp.pcs[(!warp.exited).trailing_zeros() as usize] - 1;
                warp.time.as_deref_mut()
            });
            let times = times.collect();
            timing.barrier(times, pc);
        }
        let returned: u32 = warps.iter().map(|warp| warp.exited.count_ones()).sum();
        let absent = warps.len() as u32 * 32 - self.threads;
        for warp in warps {
            if warp.exited != u32::MAX {
                let first = (!warp.exited).trailing_zeros() as usize;
                let thread = warp.thread(warp.pcs[first] - 1, first);
                let places: Vec<u32> = warp.places(warp.at_bar).collect();
                if places.windows(2).any(|pair| pair[0] != pair[1]) {
                    self.find("lanes of a warp wait at several barriers", thread, || format!("{places:?}"));
                }
                if returned > absent {
                    self.find("a barrier after threads have returned", thread, || {
                        format!("{}", returned - absent)
                    });
                }
            }
            warp.running = warp.at_bar;
            warp.at_bar = 0;
        }
    }

    fn report_deadlock(&mut self, warps: &[Warp]) {
        let warp = warps.iter().find(|warp| !warp.is_blocked()).expect("one is stuck");
        let lane = (warp.waiting | warp.at_phase).trailing_zeros().min(31) as usize;
        self.find("deadlock", warp.thread(warp.pcs[lane], lane), || {
            format!(
                "at a barrier {:#x}, returned {:#x}, waiting {:#x}, for the end of a phase {:#x}",
                warp.at_bar, warp.exited, warp.waiting, warp.at_phase
            )
        });
        self.failed = true;
    }
}

/// 0..count, in another order for each seed except 0.
fn shuffled(count: usize, seed: u64, salt: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if seed != 0 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd6e8_feb8_6659_fd93);
        for i in (1..count).rev() {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            order.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
        }
    }
    order
}
