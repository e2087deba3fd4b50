//! How many blocks of a kernel a multiprocessor holds at once, by what it has and what a block takes (CUDA C++ Programming
//! Guide, "Compute Capabilities"; the rounding as in the toolkit's `cuda_occupancy.h`).
//!
//! ```text
//! blocks = min(warps / warps of a block, most blocks, registers / registers of a block, shared memory / that of a block)
//! ```
//! Registers are handed out by warp, 256 at a time, from four equal parts; shared memory 128 bytes at a time, and 1 KiB of
//! each block's is the system's.
//!
//! Free of everything else: the build script, which writes `kernel_resources.csv`, contains this file too.

use std::fmt;

const WARP_THREADS: u64 = 32;
const REGISTERS: u64 = 1 << 16;
const REGISTER_UNIT: u64 = 256;
/// Each schedules a quarter of the warps, with a quarter of the registers.
const PARTITIONS: u64 = 4;
const SHARED_UNIT: u64 = 128;
const SYSTEM_SHARED_BYTES: u64 = 1 << 10;

/// What a streaming multiprocessor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessor {
    /// Warps at most.
    pub warps: u64,
    /// Blocks at most.
    pub blocks: u64,
    /// Bytes of shared memory.
    pub shared_bytes: u64,
}

impl Multiprocessor {
    /// By the name of the architecture, such as `sm_90a`; none of one that is not in this list.
    pub fn of(architecture: &str) -> Option<Self> {
        let (warps, blocks, shared_kib) =
            match architecture.trim_end_matches(|c: char| c.is_ascii_lowercase()) {
                "sm_80" => (64, 32, 164),
                "sm_90" | "sm_100" => (64, 32, 228),
                "sm_120" => (48, 24, 100),
                _ => return None,
            };
        Some(Multiprocessor { warps, blocks, shared_bytes: shared_kib << 10 })
    }

    /// How many blocks of so many `threads` fit, with `registers` a thread and `shared_bytes` of shared memory, static and
    /// dynamic.
    pub fn occupancy(&self, threads: u64, registers: u64, shared_bytes: u64) -> Occupancy {
        let warps = threads.max(1).div_ceil(WARP_THREADS);
        let of_warp = (registers.max(1) * WARP_THREADS).next_multiple_of(REGISTER_UNIT);
        let warps_with_registers = REGISTERS / PARTITIONS / of_warp * PARTITIONS;
        let of_block = (shared_bytes + SYSTEM_SHARED_BYTES).next_multiple_of(SHARED_UNIT);
        let limits = [
            (self.warps / warps, Limit::Warps),
            (self.blocks, Limit::Blocks),
            (warps_with_registers / warps, Limit::Registers),
            (self.shared_bytes / of_block, Limit::SharedMemory),
        ];
        // Takes the first of equal limits.
        let (blocks, limit) = limits.into_iter().min_by_key(|(blocks, _)| *blocks).expect("four limits");
        Occupancy { blocks, warps: blocks * warps, limit }
    }
}

/// What a multiprocessor holds of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Blocks at once.
    pub blocks: u64,
    /// Their warps.
    pub warps: u64,
    /// What there is no more of for another block.
    pub limit: Limit,
}

/// What limits the blocks on a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As many warps as it can hold.
    Warps,
    /// As many blocks as it can hold.
    Blocks,
    /// Registers.
    Registers,
    /// Shared memory.
    SharedMemory,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Warps => "warps",
            Limit::Blocks => "blocks",
            Limit::Registers => "registers",
            Limit::SharedMemory => "shared memory",
        })
    }
}
