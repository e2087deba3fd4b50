//! Runs a warp, instruction by instruction.

use super::Machine;
use super::warp::{Registers, Warp};
use crate::kernel::Inst;
use crate::operation::{Op, V32, V64, lanes};
use crate::timing::Issue;

/// What the running lanes do after an instruction.
enum Next {
    /// They go on with the next one.
    Instruction,
    /// They all jump.
    Jump(u32),
    /// They have parted or stopped; their next instructions are set.
    Schedule,
}

impl Machine<'_> {
    /// Runs the warp until none of its lanes can go on by itself.
    pub(super) fn run_warp(&mut self, warp: &mut Warp) {
        loop {
            if warp.running != 0 {
                self.run_lanes_behind(warp);
            } else if !self.resolve(warp) {
                return;
            }
        }
    }

    /// Executes an instruction that may wait for other warps. Returns the lanes that have to wait.
    fn meet_others(&mut self, inst: &Inst, lanes: u32, pc: u32, warp: &mut Warp) -> u32 {
        match inst.op {
            Op::Mbarrier(kind) => self.mbarrier(inst, kind, lanes, pc, warp),
            Op::SetRegisters { takes } => {
                let waits = lanes != 0 && self.set_registers(inst, takes, lanes, pc, warp);
                if waits { lanes } else { 0 }
            }
            _ => 0,
        }
    }

    /// Lets the lanes go on whose phase has ended, or for which there are registers now.
    pub(super) fn look_again(&mut self, warp: &mut Warp) {
        if warp.at_phase == 0 {
            return;
        }
        let waiting = std::mem::take(&mut warp.at_phase);
        let pc = warp.pcs[waiting.trailing_zeros() as usize];
        let here =
            lanes(waiting).filter(|&lane| warp.pcs[lane] == pc).fold(0, |all, lane| all | 1u32 << lane);
        let kernel = self.kernel;
        let inst = &kernel.code[pc as usize];
        let still = self.meet_others(inst, here, pc, warp);
        let passed = here & !still;
        warp.at_phase = waiting & !passed;
        warp.running |= passed;
        warp.go_to(passed, pc + 1);
    }

    /// Runs the lanes that are furthest behind, until they part, stop, or reach the next ones.
    fn run_lanes_behind(&mut self, warp: &mut Warp) {
        let kernel = self.kernel;
        let mut pc = warp.places(warp.running).min().expect("a lane runs");
        let (mut mask, mut stop) = (0u32, u32::MAX);
        for lane in lanes(warp.running) {
            if warp.pcs[lane] == pc {
                mask |= 1 << lane;
            } else {
                stop = stop.min(warp.pcs[lane]);
            }
        }
        while pc < stop {
            let inst = &kernel.code[pc as usize];
            self.executed += 1;
            let taken = match inst.guard {
                None => mask,
                Some((reg, negated)) => mask & holds(&warp.registers.narrow[reg as usize], negated),
            };
            if let (Some(timing), Some(time)) = (&mut self.timing, &mut warp.time)
                // Collectives are timed when their lanes have come together.
                && (taken == 0 || !inst.op.is_collective())
            {
                timing.step(time, inst, Issue { pc, taken, mask }, &warp.registers);
            }
            if taken != 0 && warp.products.is_some() && !inst.op.is_of_warpgroup() {
                self.note_registers(inst, pc, warp);
            }
            match self.execute(inst, taken, &mut mask, pc, warp) {
                Next::Instruction => pc += 1,
                Next::Jump(target) if target <= stop => pc = target,
                Next::Jump(target) => {
                    warp.go_to(mask, target);
                    return;
                }
                Next::Schedule => return,
            }
        }
        warp.go_to(mask, pc);
    }

    /// Executes an instruction in the lanes `taken` of `mask`. Removes lanes that return from `mask`.
    fn execute(&mut self, inst: &Inst, taken: u32, mask: &mut u32, pc: u32, warp: &mut Warp) -> Next {
        match inst.op {
            Op::LdParam { bytes } => self.load_param(inst, bytes, taken, pc, warp),
            Op::Ld(access) => self.load(inst, access, taken, pc, warp),
            Op::St(access) => self.store(inst, access, taken, pc, warp),
            Op::AtomAdd { wide, ordered } => {
                if ordered {
                    self.fence(taken, warp);
                }
                self.atomic_add(inst, wide, taken, pc, warp);
                self.acquired |= ordered && taken != 0;
            }
            Op::CpAsync { bytes } => self.begin_copy(inst, u32::from(bytes), taken, pc, warp),
            Op::CpCommit => lanes(taken).for_each(|lane| warp.groups[lane] += 1),
            Op::CpWait => self.finish_copies(inst.imm as u32, taken, pc, warp),
            Op::Membar { device } => {
                if device {
                    self.fence(taken, warp);
                }
            }
            Op::GridWait => {
                warp.begun |= taken;
                if let (Some(timing), Some(time)) = (&self.timing, &mut warp.time) {
                    timing.launch_ahead_ends(time);
                }
            }
            Op::GridLaunch | Op::Nop => {}
            Op::Bra { uniform } => return self.branch(inst, uniform, [taken, *mask], pc, warp),
            Op::Ret => {
                self.exit(taken, pc, warp);
                *mask &= !taken;
                if *mask == 0 {
                    return Next::Schedule;
                }
            }
            Op::Bar => {
                if taken != 0 {
                    if taken != !warp.exited && *mask != taken {
                        let thread = warp.thread(pc, taken.trailing_zeros() as usize);
                        self.find("a barrier under a guard", thread, String::new);
                    }
                    warp.at_bar |= taken;
                    warp.running &= !taken;
                    warp.go_to(*mask, pc + 1);
                    return Next::Schedule;
                }
            }
            Op::Mbarrier(_) | Op::SetRegisters { .. } => {
                let waiting = self.meet_others(inst, taken, pc, warp);
                if waiting != 0 {
                    warp.at_phase |= waiting;
                    warp.running &= !waiting;
                    warp.go_to(*mask, pc + 1);
                    warp.go_to(waiting, pc);
                    return Next::Schedule;
                }
            }
            Op::ProxyFence => lanes(taken).for_each(|lane| self.fence_proxy(warp.thread(pc, lane))),
            op if op.is_collective() => {
                if taken != 0 {
                    if self.needed(inst, taken, pc, warp) == taken {
                        self.collective(inst, taken, pc, warp);
                    } else {
                        warp.waiting |= taken;
                        warp.running &= !taken;
                        warp.go_to(*mask, pc + 1);
                        warp.go_to(taken, pc);
                        return Next::Schedule;
                    }
                }
            }
            _ => compute(inst, taken, warp),
        }
        Next::Instruction
    }

    /// A device-wide fence by the lanes in `taken`: their earlier accesses become visible before their later ones.
    fn fence(&mut self, taken: u32, warp: &mut Warp) {
        lanes(taken).for_each(|lane| warp.fences[lane] += 1);
        if taken != 0 {
            self.fence_epoch = self.epoch;
            self.acquired |= self.atomics;
        }
    }

    /// `of`: lanes that jump, and lanes that are at the branch.
    fn branch(&mut self, inst: &Inst, uniform: bool, of: [u32; 2], pc: u32, warp: &mut Warp) -> Next {
        let ([taken, mask], target) = (of, inst.imm as u32);
        if uniform && taken != mask {
            let thread = warp.thread(pc, mask.trailing_zeros() as usize);
            self.find("bra.uni is not uniform", thread, String::new);
        }
        if taken == mask {
            return Next::Jump(target);
        }
        if taken == 0 {
            return Next::Instruction;
        }
        warp.go_to(mask, pc + 1);
        warp.go_to(taken, target);
        Next::Schedule
    }

    fn exit(&mut self, taken: u32, pc: u32, warp: &mut Warp) {
        for lane in lanes(taken) {
            let thread = warp.thread(pc, lane);
            if lane == 0 && warp.products.as_ref().is_some_and(|products| products.are_in_flight()) {
                self.find("return with products in flight", thread, String::new);
            }
            if !warp.copies[lane].is_empty() {
                self.find("return with asynchronous copies in flight", thread, String::new);
                warp.copies[lane].clear();
            }
            if self.kernel.overlaps && !thread.begun {
                self.find("return without griddepcontrol.wait", thread, String::new);
            }
        }
        warp.exited |= taken;
        warp.running &= !taken;
    }
}

/// Lanes in which a predicate holds.
fn holds(predicate: &V32, negated: bool) -> u32 {
    let mut bits = 0u32;
    for i in 0..32 {
        bits |= u32::from(predicate.0[i] != 0) << i;
    }
    if negated { !bits } else { bits }
}

/// Executes an operation on registers.
fn compute(inst: &Inst, taken: u32, warp: &mut Warp) {
    let (mut narrow, mut wide) = (V32::splat(0), V64::splat(0));
    match inst.op {
        Op::Pack { bits } => pack(inst, bits, taken, warp),
        Op::Unpack { bits } => unpack(inst, bits, taken, warp),
        _ if compute_narrow(inst, &warp.registers, &mut narrow) => {
            warp.registers.narrow[inst.dst.at as usize].put(&narrow, taken);
        }
        _ => {
            compute_wide(inst, &warp.registers, &mut wide);
            warp.registers.wide[inst.dst.at as usize].put(&wide, taken);
        }
    }
}

/// Computes a 32-bit result. Returns whether the operation has one.
fn compute_narrow(inst: &Inst, registers: &Registers, d: &mut V32) -> bool {
    let narrow = |i: usize| &registers.narrow[inst.src[i].at as usize];
    let wide = |i: usize| &registers.wide[inst.src[i].at as usize];
    match inst.op {
        Op::U32(f) => f(narrow(0), d),
        Op::B32(f) => f(narrow(0), narrow(1), d),
        Op::T32(f) => f(narrow(0), narrow(1), narrow(2), d),
        Op::Q32(f) => f(narrow(0), narrow(1), narrow(2), narrow(3), d),
        Op::U64to32(f) => f(wide(0), d),
        Op::B64to32(f) => f(wide(0), wide(1), d),
        _ => return false,
    }
    true
}

/// Computes a 64-bit result.
fn compute_wide(inst: &Inst, registers: &Registers, d: &mut V64) {
    let narrow = |i: usize| &registers.narrow[inst.src[i].at as usize];
    let wide = |i: usize| &registers.wide[inst.src[i].at as usize];
    match inst.op {
        Op::U64(f) => f(wide(0), d),
        Op::B64(f) => f(wide(0), wide(1), d),
        Op::T64(f) => f(wide(0), wide(1), wide(2), d),
        Op::U32to64(f) => f(narrow(0), d),
        Op::B32to64(f) => f(narrow(0), narrow(1), d),
        Op::Shift64(f) => f(wide(0), narrow(1), d),
        Op::Select64 => {
            let (a, b, predicate) = (wide(0), wide(1), narrow(2));
            for i in 0..32 {
                d.0[i] = if predicate.0[i] != 0 { a.0[i] } else { b.0[i] };
            }
        }
        _ => unreachable!("an operation on registers"),
    }
}

fn pack(inst: &Inst, bits: u8, taken: u32, warp: &mut Warp) {
    for lane in lanes(taken) {
        let mut value = 0u64;
        for (i, reg) in inst.list.iter().enumerate() {
            let part = warp.registers.get(*reg, lane) & ((1u64 << bits) - 1);
            value |= part << (i * usize::from(bits));
        }
        warp.registers.set(inst.dst, lane, value);
    }
}

fn unpack(inst: &Inst, bits: u8, taken: u32, warp: &mut Warp) {
    for lane in lanes(taken) {
        let value = warp.registers.get(inst.src[0], lane);
        for (i, reg) in inst.list.iter().enumerate() {
            let part = value >> (i * usize::from(bits)) & ((1u64 << bits) - 1);
            warp.registers.set(*reg, lane, part);
        }
    }
}
