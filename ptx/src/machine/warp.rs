//! State of a warp.

use super::Machine;
use super::wgmma::Products;
use crate::kernel::{NONE, PARAM_BASE, Pool, Reg, SHARED_BASE};
use crate::operation::{V32, V64, lanes};
use crate::timing::WarpTime;

/// Registers of a warp.
pub struct Registers {
    /// 32-bit registers.
    pub narrow: Vec<V32>,
    /// 64-bit registers.
    pub wide: Vec<V64>,
}

impl Registers {
    pub(super) fn set(&mut self, reg: Reg, lane: usize, value: u64) {
        if reg == NONE {
        } else if reg.wide {
            self.wide[reg.at as usize].0[lane] = value;
        } else {
            self.narrow[reg.at as usize].0[lane] = value as u32;
        }
    }

    pub(super) fn get(&self, reg: Reg, lane: usize) -> u64 {
        match reg.wide {
            true => self.wide[reg.at as usize].0[lane],
            false => u64::from(self.narrow[reg.at as usize].0[lane]),
        }
    }

    /// 64-bit address.
    pub(crate) fn global_address(&self, reg: Reg, offset: i64, lane: usize) -> u64 {
        self.wide[reg.at as usize].0[lane].wrapping_add(offset as u64)
    }

    /// 32-bit address.
    pub(crate) fn shared_address(&self, reg: Reg, offset: i64, lane: usize) -> u32 {
        self.narrow[reg.at as usize].0[lane].wrapping_add(offset as u32)
    }
}

/// A thread at an instruction.
#[derive(Clone, Copy)]
pub(super) struct Thread {
    pub pc: u32,
    /// Index in the block.
    pub index: u32,
    /// Whether it has waited for the launch ahead.
    pub begun: bool,
    /// Fences that it has executed.
    pub fences: u16,
}

impl Thread {
    /// Index of its warp in the block.
    pub fn warp(self) -> usize {
        self.index as usize / 32
    }
}

/// An asynchronous copy in flight.
pub(super) struct AsyncCopy {
    /// Place in shared memory.
    pub to: u32,
    /// Address in device memory.
    pub from: u64,
    /// Bytes to write.
    pub bytes: u32,
    /// Bytes to read; the rest becomes zero.
    pub valid: u32,
    /// Group in which it was committed.
    pub group: u32,
}

/// A warp. Masks have one bit per lane.
pub(super) struct Warp {
    /// Index in the block of the first thread.
    pub first: u32,
    /// Next instruction by lane.
    pub pcs: [u32; 32],
    /// Lanes that can go on.
    pub running: u32,
    /// Lanes at the block's barrier.
    pub at_bar: u32,
    /// Lanes at a collective.
    pub waiting: u32,
    /// Lanes that wait for the end of a phase of a barrier in shared memory, or for registers.
    pub at_phase: u32,
    /// Lanes that have returned or do not exist.
    pub exited: u32,
    pub registers: Registers,
    /// Copies in flight by lane.
    pub copies: Vec<Vec<AsyncCopy>>,
    /// Groups committed by lane.
    pub groups: [u32; 32],
    /// Fences executed by lane.
    pub fences: [u16; 32],
    /// Lanes that have waited for the launch ahead.
    pub begun: u32,
    /// Products beside the warp, in kernels that have them.
    pub products: Option<Box<Products>>,
    pub time: Option<Box<WarpTime>>,
}

impl Warp {
    /// Thread of a lane at instruction `pc`.
    pub fn thread(&self, pc: u32, lane: usize) -> Thread {
        let begun = self.begun >> lane & 1 != 0;
        Thread { pc, index: self.first + lane as u32, begun, fences: self.fences[lane] }
    }

    /// Whether all lanes have returned or wait at a barrier.
    pub fn is_blocked(&self) -> bool {
        self.at_bar | self.exited == u32::MAX
    }

    /// Next instructions of the lanes in `mask`.
    pub fn places(&self, mask: u32) -> impl Iterator<Item = u32> {
        lanes(mask).map(|lane| self.pcs[lane])
    }

    /// Sets the next instruction of the lanes in `mask`.
    pub fn go_to(&mut self, mask: u32, pc: u32) {
        for lane in lanes(mask) {
            self.pcs[lane] = pc;
        }
    }
}

impl Machine<'_> {
    pub(super) fn start_warp(&self, index: u32) -> Warp {
        let kernel = self.kernel;
        let first = index * 32;
        let present = self.threads.saturating_sub(first).min(32);
        let running = if present == 32 { u32::MAX } else { (1u32 << present) - 1 };
        // Registers begin as NaN.
        let mut registers = Registers {
            narrow: vec![V32::splat(0xffff_5a5a); kernel.regs32 as usize],
            wide: vec![V64::splat(0xffff_5a5a_5a5a_5a5a); kernel.regs64 as usize],
        };
        for (reg, pool) in &kernel.pool {
            for lane in 0..32 {
                registers.set(*reg, lane, self.pooled(*pool, first, lane));
            }
        }
        Warp {
            first,
            pcs: [0; 32],
            running,
            at_bar: 0,
            waiting: 0,
            at_phase: 0,
            exited: !running,
            registers,
            copies: (0..32).map(|_| Vec::new()).collect(),
            groups: [0; 32],
            fences: [0; 32],
            begun: 0,
            products: self.clocks.as_ref().map(|_| Products::new(kernel.regs32)),
            time: self.timing.as_ref().map(|_| Box::new(WarpTime::new(kernel))),
        }
    }

    /// Value of a pooled register in a lane of the warp whose first thread is `first`.
    fn pooled(&self, pool: Pool, first: u32, lane: usize) -> u64 {
        let thread = first + lane as u32;
        let [x, y, _] = self.block;
        let axis = |of: [u32; 3], axis: u8| u64::from(of[usize::from(axis)]);
        match pool {
            Pool::Imm(value) => value,
            Pool::Tid(of) => axis([thread % x, thread / x % y, thread / (x * y)], of),
            Pool::Ntid(of) => axis(self.block, of),
            Pool::Ctaid(of) => axis(self.block_index, of),
            Pool::Nctaid(of) => axis(self.grid, of),
            Pool::Lane => lane as u64,
            Pool::Shared(symbol) => u64::from(SHARED_BASE + self.kernel.shared[symbol].offset),
            Pool::Param(offset) => PARAM_BASE + u64::from(offset),
        }
    }
}
