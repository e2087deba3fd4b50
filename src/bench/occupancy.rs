//! Occupancy: number of blocks of a kernel that a multiprocessor holds at once (CUDA C++ Programming Guide, "Compute
//! Capabilities"). The rounding is that of the toolkit's `cuda_occupancy.h`.
//!
//! ```text
//! blocks = min(warps / warps of a block, most blocks, registers / registers of a block, shared memory / that of a block)
//! ```
//! Registers are allocated per warp in units of 256, from four equal partitions. Shared memory is allocated in units of
//! 128 bytes, and the system reserves 1 KiB of it per block.
//!
//! This file depends on nothing else, because the build script includes it too, to write `kernel_resources.csv`.

use std::fmt;

const WARP_THREADS: u64 = 32;
const REGISTERS: u64 = 1 << 16;
const REGISTER_UNIT: u64 = 256;
/// Partitions of a multiprocessor. Each schedules a quarter of the warps with a quarter of the registers.
const PARTITIONS: u64 = 4;
const SHARED_UNIT: u64 = 128;
const SYSTEM_SHARED_BYTES: u64 = 1 << 10;

/// Resources of a streaming multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessor {
    /// Maximum number of warps.
    pub warps: u64,
    /// Maximum number of blocks.
    pub blocks: u64,
    /// Shared memory in bytes.
    pub shared_bytes: u64,
}

impl Multiprocessor {
    /// Resources of an architecture such as `sm_90a`; `None` if it is not in this list.
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

    /// Occupancy of blocks with this number of `threads`, of `registers` per thread, and of bytes of static and dynamic
    /// shared memory.
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
        // The first of equal limits is reported.
        let (blocks, limit) = limits.into_iter().min_by_key(|(blocks, _)| *blocks).expect("four limits");
        Occupancy { blocks, warps: blocks * warps, limit }
    }
}

/// Blocks of a kernel that a multiprocessor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Number of blocks at once.
    pub blocks: u64,
    /// Number of warps of these blocks.
    pub warps: u64,
    /// The resource that another block would exceed.
    pub limit: Limit,
}

/// Resource that limits the number of blocks on a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Maximum number of warps.
    Warps,
    /// Maximum number of blocks.
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
