//! Interpreter of the PTX that nvcc emits: it executes and times CUDA kernels on the CPU. It shares nothing with an emulator
//! that compiles the sources as C++, so each checks the other.
//!
//! ```text
//! parse      text to kernels of decoded instructions
//! machine    runs a launch: warps, barriers, shared and device memory; what it finds wrong
//! timing     a scoreboard for each warp while it runs, and the launch's blocks over the SMs of a GPU
//! memory     device buffers at their addresses in this process, and what is known of each byte
//! device     all kernels of a program, its memory, and launches in order
//! compare    memory after a launch beside that of another implementation
//! ```
//!
//! Modelled are warps of 32 lanes with a program counter each, of which those behind run first; barriers; shuffles, votes,
//! `ldmatrix` and `mma.sync`; parameters as PTX declares them; `cp.async`, performed when it is waited for; and roundings.
//!
//! Three things of sm_90a are modelled too. Barriers in shared memory have phases. `wgmma` multiplies bf16 values, in both orders
//! of its operands and with the swizzle of 128 bytes; its result exists once it is waited for. Warps give up registers and take them.
//!
//! Registers and shared memory begin as NaN. A launch reports accesses out of bounds, misaligned or uninitialised, races
//! within a block and between blocks, accesses before `griddepcontrol.wait`, incomplete collectives and barriers,
//! registers and memory of products in flight, missing `wgmma.fence` and `fence.proxy.async`, deadlocks, and grids, blocks
//! and parameters that a driver refuses.
//!
//! Not modelled are the compiler from PTX to machine code, caches and weak memory beyond that, clusters and TMA, other
//! swizzles, the error of `ex2.approx`, and roundings of tensor cores. An unknown instruction is an error of the parser.
#![deny(missing_docs)]

mod arithmetic;
pub mod compare;
pub mod device;
mod finding;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod operation;
mod parse;
mod rounding;
pub mod timing;

pub use finding::{Finding, Findings};
pub use parse::parse;
