//! Instructions that the lanes of a warp execute together: shuffles, votes, matrix loads and products.

use super::Machine;
use super::warp::Warp;
use crate::kernel::{Inst, NONE};
use crate::operation::{Op, Shuffle, V32, lanes};
use crate::timing::Issue;

impl Machine<'_> {
    /// Lanes that must reach a collective, by what the lanes of `mask` name.
    pub(super) fn needed(&mut self, inst: &Inst, mask: u32, pc: u32, warp: &Warp) -> u32 {
        let first = mask.trailing_zeros() as usize;
        if !inst.op.names_lanes() {
            if warp.exited != 0 {
                let thread = warp.thread(pc, first);
                self.find("an aligned collective without all lanes", thread, String::new);
            }
            return !warp.exited;
        }
        let named = warp.registers.narrow[inst.src[3].at as usize];
        let members = named.0[first];
        for lane in lanes(mask) {
            if named.0[lane] != members || members >> lane & 1 == 0 {
                self.find("lanes of a collective name different lanes", warp.thread(pc, lane), || {
                    format!("{:#x} and {members:#x}", named.0[lane])
                });
            }
        }
        if members & warp.exited != 0 {
            self.find("a collective names lanes that have returned", warp.thread(pc, first), || {
                format!("{members:#x}")
            });
        }
        members & !warp.exited
    }

    /// Executes a collective whose lanes have all arrived, if there is one.
    pub(super) fn resolve(&mut self, warp: &mut Warp) -> bool {
        let kernel = self.kernel;
        let mut rest = warp.waiting;
        while rest != 0 {
            let pc = warp.pcs[rest.trailing_zeros() as usize];
            let here = lanes(warp.waiting).filter(|&lane| warp.pcs[lane] == pc);
            let here = here.fold(0, |mask, lane| mask | 1u32 << lane);
            rest &= !here;
            let inst = &kernel.code[pc as usize];
            let needed = self.needed(inst, 1 << here.trailing_zeros(), pc, warp);
            if needed & !here == 0 {
                self.collective(inst, needed, pc, warp);
                warp.waiting &= !needed;
                warp.running |= needed;
                warp.go_to(needed, pc + 1);
                return true;
            }
        }
        false
    }

    pub(super) fn collective(&mut self, inst: &Inst, mask: u32, pc: u32, warp: &mut Warp) {
        if let (Some(timing), Some(time)) = (&mut self.timing, &mut warp.time) {
            timing.step(time, inst, Issue { pc, taken: mask, mask }, &warp.registers);
        }
        match inst.op {
            Op::Shfl(mode) => self.shuffle(inst, mode, mask, pc, warp),
            Op::Ballot { negated } => {
                let predicate = warp.registers.narrow[inst.src[0].at as usize];
                let votes = lanes(mask).filter(|&lane| (predicate.0[lane] != 0) != negated);
                let votes = votes.fold(0u32, |votes, lane| votes | 1 << lane);
                warp.registers.narrow[inst.dst.at as usize].put(&V32::splat(votes), mask);
            }
            Op::Mma { tf32 } => self.multiply(inst, tf32, warp),
            Op::Ldmatrix { transposed } => self.load_matrix(inst, transposed, pc, warp),
            Op::WarpBar => {
                // Lanes that stay away are not ordered.
                if let Some(clocks) = self.clocks.as_mut().filter(|_| mask | warp.exited == u32::MAX) {
                    clocks.meet(warp.first as usize / 32);
                }
            }
            op if op.is_of_warpgroup() => self.warpgroup(inst, pc, warp),
            _ => unreachable!("a collective"),
        }
    }

    /// By the PTX manual's pseudo code of `shfl.sync`.
    fn shuffle(&mut self, inst: &Inst, mode: Shuffle, mask: u32, pc: u32, warp: &mut Warp) {
        let value = warp.registers.narrow[inst.src[0].at as usize];
        let mut result = value;
        let mut valid = V32::splat(0);
        for lane in lanes(mask) {
            let b = warp.registers.narrow[inst.src[1].at as usize].0[lane] & 0x1f;
            let c = warp.registers.narrow[inst.src[2].at as usize].0[lane];
            let (clamp, segment) = (c & 0x1f, c >> 8 & 0x1f);
            let own = lane as u32;
            let max_lane = (own & segment) | (clamp & !segment);
            let min_lane = own & segment;
            let (source, holds) = match mode {
                Shuffle::Up => (own.wrapping_sub(b), own as i32 - b as i32 >= max_lane as i32),
                Shuffle::Down => (own + b, own + b <= max_lane),
                Shuffle::Butterfly => (own ^ b, own ^ b <= max_lane),
                Shuffle::Index => {
                    let source = min_lane | (b & !segment & 0x1f);
                    (source, source <= max_lane)
                }
            };
            let source = if holds { source } else { own };
            valid.0[lane] = u32::from(holds);
            if mask >> source & 1 == 0 {
                self.find("shuffle from a lane that does not take part", warp.thread(pc, lane), || {
                    format!("lane {source}")
                });
                result.0[lane] = 0xffff_ffff;
            } else {
                result.0[lane] = value.0[source as usize];
            }
        }
        for (reg, values) in [(inst.dst, result), (inst.list[0], valid)] {
            if reg != NONE {
                warp.registers.narrow[reg.at as usize].put(&values, mask);
            }
        }
    }

    /// Four matrices of 8 rows of 16 bytes; lane `i` gives the address of row `i`.
    fn load_matrix(&mut self, inst: &Inst, transposed: bool, pc: u32, warp: &mut Warp) {
        let mut rows = [[0xffffu16; 8]; 32];
        for (lane, row) in rows.iter_mut().enumerate() {
            let thread = warp.thread(pc, lane);
            let address = warp.registers.shared_address(inst.src[0], inst.imm, lane);
            let Some(place) = self.shared_place(address, 16, thread) else { continue };
            self.note_shared_read(place, 16, thread);
            for (i, value) in row.iter_mut().enumerate() {
                let at = place + 2 * i;
                *value = u16::from_le_bytes([self.shared[at], self.shared[at + 1]]);
            }
        }
        for (matrix, reg) in inst.list.iter().enumerate() {
            for lane in 0..32 {
                let (row, pair) = (lane / 4, lane % 4 * 2);
                let [low, high] = [pair, pair + 1].map(|column| match transposed {
                    false => rows[matrix * 8 + row][column],
                    true => rows[matrix * 8 + column][row],
                });
                warp.registers.set(*reg, lane, u64::from(low) | u64::from(high) << 16);
            }
        }
    }
}
