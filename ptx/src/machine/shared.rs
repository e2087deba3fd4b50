//! Shared memory: bounds, alignment, uninitialised reads, and races between barriers.

use super::Machine;
use super::warp::Thread;
use crate::kernel::SHARED_BASE;

/// Nobody has written the byte.
pub(super) const UNWRITTEN: u8 = 0;
/// The byte has been written.
pub(super) const WRITTEN: u8 = 1;
/// An asynchronous copy is writing the byte.
pub(super) const IN_FLIGHT: u8 = 2;

/// Latest accesses of a byte.
#[derive(Clone, Copy, Default)]
pub(super) struct SharedCell {
    /// Thread that wrote last, plus one; 0 for none.
    pub writer: u16,
    /// Thread that read last, plus one; [`MANY`] for several.
    pub reader: u16,
    pub write_epoch: u32,
    pub read_epoch: u32,
}

const MANY: u16 = u16::MAX;

/// Step between the bytes that are looked at: values of two bytes or more are never split.
pub(super) fn stride(bytes: u32) -> usize {
    if bytes == 1 { 1 } else { 2 }
}

impl Machine<'_> {
    /// Place of an access, or none with a finding.
    pub(super) fn shared_place(&mut self, address: u32, bytes: u32, thread: Thread) -> Option<usize> {
        if !address.is_multiple_of(bytes) {
            self.find("misaligned shared access", thread, || format!("{bytes} bytes at {address:#x}"));
            return None;
        }
        let place = i64::from(address) - i64::from(SHARED_BASE);
        let size = self.shared.len();
        if place < 0 || place as usize + bytes as usize > size {
            self.find("shared access out of bounds", thread, || {
                format!("{bytes} bytes at {place} of {size}")
            });
            return None;
        }
        Some(place as usize)
    }

    pub(super) fn note_shared_read(&mut self, place: usize, bytes: u32, thread: Thread) {
        let state = &self.shared_state[place..place + bytes as usize];
        if state.iter().any(|&state| state != WRITTEN) {
            let what = match state.contains(&IN_FLIGHT) {
                true => "shared read of an asynchronous copy in flight",
                false => "uninitialised shared read",
            };
            self.find(what, thread, || format!("{bytes} bytes at {place}"));
        }
        if !self.barriers.is_empty() {
            self.check_no_barrier(place, bytes, thread);
        }
        if !self.options.races {
            return;
        }
        self.note_clocked_read(place, bytes, thread);
        let me = (thread.index + 1) as u16;
        let epoch = self.clock(thread);
        for byte in (place..place + bytes as usize).step_by(stride(bytes)) {
            let cell = self.shared_cells[byte];
            let (writer, written) = (cell.writer, cell.write_epoch);
            let race = writer != 0 && writer != me && !self.is_before(u32::from(writer) - 1, written, thread);
            let cell = &mut self.shared_cells[byte];
            if cell.read_epoch != epoch {
                cell.read_epoch = epoch;
                cell.reader = me;
            } else if cell.reader != me {
                cell.reader = MANY;
            }
            if race {
                self.find("race in shared memory: read after write", thread, || {
                    format!("byte {byte}, written by thread {}", writer - 1)
                });
            }
        }
    }

    pub(super) fn note_shared_write(&mut self, place: usize, bytes: u32, thread: Thread) {
        let states = &mut self.shared_state[place..place + bytes as usize];
        let in_flight = states.contains(&IN_FLIGHT);
        states.fill(WRITTEN);
        if in_flight {
            self.find("shared write of an asynchronous copy in flight", thread, || {
                format!("{bytes} bytes at {place}")
            });
        }
        if !self.barriers.is_empty() {
            self.check_no_barrier(place, bytes, thread);
        }
        if self.product_reads.iter().skip(place / 2).take(bytes.div_ceil(2) as usize).any(|&reads| reads > 0)
        {
            self.find("shared write of a factor of a product in flight", thread, || {
                format!("{bytes} bytes at {place}")
            });
        }
        self.note_generic_write(place, bytes);
        if !self.options.races {
            return;
        }
        let me = (thread.index + 1) as u16;
        let epoch = self.clock(thread);
        for byte in (place..place + bytes as usize).step_by(stride(bytes)) {
            let before = self.shared_cells[byte];
            let follows = |clock: u32, other: u16| self.is_before(u32::from(other) - 1, clock, thread);
            let two_writes =
                before.writer != 0 && before.writer != me && !follows(before.write_epoch, before.writer);
            if let Some(reader) = self.unordered_reader(byte, thread) {
                self.find("race in shared memory: write after read", thread, || {
                    format!("byte {byte}, read by thread {reader}")
                });
            }
            let cell = &mut self.shared_cells[byte];
            cell.writer = me;
            cell.write_epoch = epoch;
            if two_writes {
                self.find("race in shared memory: two writes", thread, || {
                    format!("byte {byte}, written by thread {}", before.writer - 1)
                });
            }
            if self.clocks.is_none()
                && before.read_epoch == epoch
                && before.reader != 0
                && before.reader != me
            {
                self.find("race in shared memory: write after read", thread, || match before.reader {
                    MANY => format!("byte {byte}, read by several threads"),
                    reader => format!("byte {byte}, read by thread {}", reader - 1),
                });
            }
        }
    }
}
