//! Rough time of a launch: a scoreboard for each warp while its PTX is executed, then a simulation of the launch's blocks
//! over the SMs of a GPU. `docs/kernels.md` says what is modelled and what is not. No number was fitted to a measurement.
//!
//! Four models run at once:
//!
//! 0. flow: data flow, barriers, fences, and stores before loads; all branches are known at the start
//! 1. window: as flow, but no instruction passes an undecided branch; a compiler that reorders all that it may
//! 2. scheduled: a basic block issues after the one before it has issued; a compiler that reorders freely within basic
//!    blocks, and a machine that issues in order. This is the likely time
//! 3. in order: as the PTX stands

mod blocks;
mod class;
mod launch;
mod memory;
mod parameters;
mod scoreboard;
mod simulation;
mod table;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::kernel::Kernel;
use crate::memory::Buffer;
use class::Info;

pub use launch::{LaunchTime, Micros};
pub use memory::wavefronts;
pub use parameters::Parameters;
pub use scoreboard::{Issue, WarpTime};
pub use table::table;

/// Cycles by model.
pub(crate) type Times = [u32; 4];

const WINDOW: usize = 1;
const SCHEDULED: usize = 2;
const ORDER: usize = 3;

/// Work of a block and its end by model.
#[derive(Clone, Default)]
struct Block {
    end: Times,
    /// Machine instructions, f64 instructions, conversions, mma, passes through shared memory and L1, bytes through L2's
    /// port, bytes from HBM.
    work: [f32; 7],
    /// Bytes read from L2.
    loaded: u32,
    /// Bytes written to L2.
    stored: u32,
    /// PTX instructions.
    instructions: u32,
}

/// Places of [`Block::work`].
const ISSUES: usize = 0;
const DOUBLES: usize = 1;
const CONVERSIONS: usize = 2;
const PRODUCTS: usize = 3;
const PASSES: usize = 4;
const L2_PORT: usize = 5;
const HBM: usize = 6;

/// Cycles waited for each instruction's result, scheduled and in order.
type Waits = [HashMap<u32, u32>; 2];

/// Times a launch while it is executed.
pub struct Timing {
    p: Parameters,
    infos: Vec<Info>,
    /// Buffers: address, bytes, and address on a device that aligns them to 256 bytes.
    places: Vec<(u64, u64, u64)>,
    /// Index of the buffer that was found last.
    place: usize,
    /// Blocks that fit on an SM, and the resource that limits them.
    resident: u32,
    limit: &'static str,
    /// When each sector that the running block has loaded arrives.
    l1: Sectors<Times>,
    /// Sectors in each SM's L1, with the block that loaded each first.
    sm_l1: Vec<Sectors<u32>>,
    /// Sectors that fit in L1.
    l1_sectors: usize,
    /// Sectors that the launch has touched, if it starts cold.
    touched: Sectors<()>,
    block: Block,
    waits: Waits,
    /// Machine instructions on the running block's longest chain.
    issued: u32,
    blocks: Vec<Block>,
    slowest: Slowest,
}

/// The slowest block.
#[derive(Default)]
struct Slowest {
    end: Times,
    issued: u32,
    waits: Waits,
}

/// What a timing needs of a launch before it runs.
#[derive(Clone, Copy)]
pub struct Footprint {
    /// Threads per block.
    pub threads: u32,
    /// Bytes of shared memory per block.
    pub shared_bytes: u32,
    /// Registers per thread; 64 if unknown.
    pub registers: Option<u32>,
}

impl Timing {
    /// Timing of a launch on these buffers.
    pub fn new(kernel: &Kernel, buffers: &[Buffer], footprint: Footprint, p: Parameters) -> Box<Self> {
        let Footprint { threads, shared_bytes, registers } = footprint;
        let warps = threads.div_ceil(32);
        // Registers are granted in units of 8 per thread and 256 per warp. The system takes 1 KiB of shared memory of
        // each block.
        let registers = registers.unwrap_or(64).div_ceil(8) * 8 * 32 * warps;
        let shared = shared_bytes.div_ceil(128) * 128 + 1024;
        let limits = [
            (p.registers as u32 / registers, "registers"),
            ((p.shared_kib as u32 + 1) * 1024 / shared, "shared"),
            (p.warps as u32 / warps, "warps"),
            (p.blocks as u32, "blocks"),
        ];
        let (resident, limit) = *limits.iter().min_by_key(|limit| limit.0).expect("four limits");
        let resident = resident.max(1);
        let l1_bytes = (p.l1_kib as u32 * 1024).saturating_sub(shared * resident);
        let mut next = 0;
        let placed = |buffer: &Buffer| {
            let at = next;
            next += buffer.bytes.next_multiple_of(256);
            (buffer.start, buffer.bytes, at)
        };
        Box::new(Timing {
            infos: class::infos(kernel, &p),
            places: buffers.iter().map(placed).collect(),
            place: 0,
            resident,
            limit,
            l1: Sectors::default(),
            sm_l1: (0..p.sms as usize).map(|_| Sectors::default()).collect(),
            l1_sectors: (l1_bytes / 32) as usize,
            touched: Sectors::default(),
            block: Block::default(),
            waits: Waits::default(),
            issued: 0,
            blocks: Vec::new(),
            slowest: Slowest::default(),
            p,
        })
    }
}

pub(crate) fn latest(a: Times, b: Times) -> Times {
    [a[0].max(b[0]), a[1].max(b[1]), a[2].max(b[2]), a[3].max(b[3])]
}

fn later(a: Times, cycles: u32) -> Times {
    a.map(|time| time + cycles)
}

/// Map by sector of 32 bytes.
type Sectors<V> = HashMap<u64, V, BuildHasherDefault<SectorHasher>>;

/// Multiplicative hash of one number.
#[derive(Default)]
struct SectorHasher(u64);

impl Hasher for SectorHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("sectors are numbers of 64 bits")
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}
