//! Loads, stores, atomics and asynchronous copies.

use super::Machine;
use super::global::{Path, Place, Stored};
use super::shared::{IN_FLIGHT, WRITTEN};
use super::warp::{AsyncCopy, Warp};
use crate::kernel::{Inst, NONE, PARAM_BASE};
use crate::memory::kind;
use crate::operation::{Access, Space, lanes};

impl Machine<'_> {
    pub(super) fn load_param(&mut self, inst: &Inst, bytes: u8, mask: u32, pc: u32, warp: &mut Warp) {
        let bytes = usize::from(bytes);
        for lane in lanes(mask) {
            let address = warp.registers.global_address(inst.src[0], inst.imm, lane);
            for (i, reg) in inst.list.iter().enumerate() {
                let at = address.wrapping_sub(PARAM_BASE).wrapping_add((i * bytes) as u64);
                let mut value = [0xff; 8];
                match usize::try_from(at).ok().and_then(|at| self.param.get(at..at.checked_add(bytes)?)) {
                    Some(param) => {
                        value = [0; 8];
                        value[..bytes].copy_from_slice(param);
                    }
                    None => self.find("parameter out of bounds", warp.thread(pc, lane), || {
                        format!("{bytes} bytes at offset {at}")
                    }),
                }
                warp.registers.set(*reg, lane, u64::from_le_bytes(value));
            }
        }
    }

    pub(super) fn load(&mut self, inst: &Inst, access: Access, mask: u32, pc: u32, warp: &mut Warp) {
        let width = u32::from(access.bytes);
        let bytes = width * u32::from(access.count);
        for lane in lanes(mask) {
            let thread = warp.thread(pc, lane);
            let data: Option<*const u8> = if access.space == Space::Shared {
                let address = warp.registers.shared_address(inst.src[0], inst.imm, lane);
                self.shared_place(address, bytes, thread).map(|place| {
                    self.note_shared_read(place, bytes, thread);
                    self.shared[place..].as_ptr()
                })
            } else {
                let address = warp.registers.global_address(inst.src[0], inst.imm, lane);
                let path = Path { nc: access.nc, cg: access.cg };
                self.place_to_load(address, bytes, path, thread).map(|place| {
                    self.note_read(place, path, thread);
                    address as *const u8
                })
            };
            for (i, reg) in inst.list.iter().enumerate() {
                let value = match data {
                    None => u64::MAX,
                    // SAFETY: the access lies within a buffer or shared memory, and is aligned.
                    Some(data) => unsafe {
                        match (width, access.signed) {
                            (1, false) => u64::from(*data.add(i)),
                            (1, true) => i64::from(*data.add(i) as i8) as u64,
                            (2, false) => u64::from(data.cast::<u16>().add(i).read_unaligned()),
                            (2, true) => i64::from(data.cast::<i16>().add(i).read_unaligned()) as u64,
                            (4, _) => u64::from(data.cast::<u32>().add(i).read_unaligned()),
                            _ => data.cast::<u64>().add(i).read_unaligned(),
                        }
                    },
                };
                warp.registers.set(*reg, lane, value);
            }
        }
    }

    pub(super) fn store(&mut self, inst: &Inst, access: Access, mask: u32, pc: u32, warp: &mut Warp) {
        let width = u32::from(access.bytes);
        let bytes = width * u32::from(access.count);
        let kind = match (access.bytes, access.float) {
            (4, true) => kind::F32,
            (8, true) => kind::F64,
            (1, _) => kind::U8,
            (2, _) => kind::U16,
            (4, _) => kind::U32,
            _ => kind::U64,
        };
        for lane in lanes(mask) {
            let thread = warp.thread(pc, lane);
            let data: Option<*mut u8> = if access.space == Space::Shared {
                let address = warp.registers.shared_address(inst.src[0], inst.imm, lane);
                self.shared_place(address, bytes, thread).map(|place| {
                    self.note_shared_write(place, bytes, thread);
                    self.shared[place..].as_mut_ptr()
                })
            } else {
                let address = warp.registers.global_address(inst.src[0], inst.imm, lane);
                self.global_place(address, bytes, thread).map(|place| {
                    for i in 0..usize::from(access.count) {
                        let offset = place.offset + i * width as usize;
                        let value = Place { offset, bytes: width, ..place };
                        self.note_write(value, Stored { kind, atomic: false }, thread);
                    }
                    address as *mut u8
                })
            };
            let Some(data) = data else { continue };
            for (i, reg) in inst.list.iter().enumerate() {
                let value = warp.registers.get(*reg, lane);
                // SAFETY: the access lies within a buffer or shared memory, and is aligned.
                unsafe {
                    match width {
                        1 => *data.add(i) = value as u8,
                        2 => data.cast::<u16>().add(i).write_unaligned(value as u16),
                        4 => data.cast::<u32>().add(i).write_unaligned(value as u32),
                        _ => data.cast::<u64>().add(i).write_unaligned(value),
                    }
                }
            }
        }
    }

    pub(super) fn atomic_add(&mut self, inst: &Inst, wide: bool, mask: u32, pc: u32, warp: &mut Warp) {
        let bytes = if wide { 8 } else { 4 };
        let kind = if wide { kind::U64 } else { kind::U32 };
        for lane in lanes(mask) {
            let thread = warp.thread(pc, lane);
            let address = warp.registers.global_address(inst.src[0], inst.imm, lane);
            let Some(place) = self.global_place(address, bytes, thread) else { continue };
            let written = &self.buffers[place.buffer].written[place.offset..place.offset + bytes as usize];
            if written.contains(&0) {
                self.find("uninitialised global read", thread, || "an atomic operation".into());
            }
            self.atomics = true;
            self.note_write(place, Stored { kind, atomic: true }, thread);
            let add = warp.registers.get(inst.src[1], lane);
            // SAFETY: the access lies within a buffer and is aligned.
            let before = unsafe {
                if wide {
                    let pointer = address as *mut u64;
                    pointer.replace((*pointer).wrapping_add(add))
                } else {
                    let pointer = address as *mut u32;
                    u64::from(pointer.replace((*pointer).wrapping_add(add as u32)))
                }
            };
            if inst.dst != NONE {
                warp.registers.set(inst.dst, lane, before);
            }
        }
    }

    /// Begins a copy. Its destination counts as in flight, and holds NaN, until the copy is waited for.
    pub(super) fn begin_copy(&mut self, inst: &Inst, bytes: u32, mask: u32, pc: u32, warp: &mut Warp) {
        for lane in lanes(mask) {
            let thread = warp.thread(pc, lane);
            let to = warp.registers.shared_address(inst.src[0], 0, lane);
            let from = warp.registers.global_address(inst.src[1], 0, lane);
            let valid = warp.registers.narrow[inst.src[2].at as usize].0[lane];
            if valid > bytes {
                self.find("cp.async reads more than it writes", thread, || format!("{valid} bytes"));
            }
            let valid = valid.min(bytes);
            let Some(place) = self.shared_place(to, bytes, thread) else { continue };
            if !from.is_multiple_of(u64::from(bytes)) {
                self.find("misaligned global access", thread, || {
                    format!("cp.async of {bytes} bytes from {from:#x}, of which {valid} are read")
                });
            }
            if valid > 0 {
                if self.buffer_of(from, valid).is_none() {
                    self.report_bounds(from, valid, thread);
                    continue;
                }
                self.check_begun(from, thread);
            }
            self.note_shared_write(place, bytes, thread);
            let range = place..place + bytes as usize;
            self.shared_state[range.clone()].fill(IN_FLIGHT);
            self.shared[range].fill(0xff);
            let group = warp.groups[lane];
            warp.copies[lane].push(AsyncCopy { to: place as u32, from, bytes, valid, group });
        }
    }

    /// Performs the copies of all groups but the latest `in_flight`.
    pub(super) fn finish_copies(&mut self, in_flight: u32, mask: u32, pc: u32, warp: &mut Warp) {
        for lane in lanes(mask) {
            let thread = warp.thread(pc, lane);
            let all = std::mem::take(&mut warp.copies[lane]);
            let until = warp.groups[lane].saturating_sub(in_flight);
            for copy in all {
                if copy.group >= until {
                    warp.copies[lane].push(copy);
                    continue;
                }
                let (to, bytes) = (copy.to as usize, copy.bytes as usize);
                self.shared[to..to + bytes].fill(0);
                if copy.valid > 0
                    && let Some(buffer) = self.buffer_of(copy.from, copy.valid)
                {
                    let offset = (copy.from - self.buffers[buffer].start) as usize;
                    let place = Place { buffer, offset, bytes: copy.valid };
                    self.note_read(place, Path { nc: false, cg: copy.bytes == 16 }, thread);
                    // SAFETY: the source lies within the buffer, and shared memory holds as many bytes.
                    unsafe {
                        let to = self.shared[to..].as_mut_ptr();
                        std::ptr::copy_nonoverlapping(copy.from as *const u8, to, copy.valid as usize);
                    }
                }
                self.shared_state[to..to + bytes].fill(WRITTEN);
                self.note_generic_write(to, copy.bytes);
                let clock = self.clock(thread);
                for cell in &mut self.shared_cells[to..to + bytes] {
                    cell.writer = (thread.index + 1) as u16;
                    cell.write_epoch = clock;
                }
            }
        }
    }
}
