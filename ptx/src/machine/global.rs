//! Device memory: bounds, alignment, uninitialised reads, and races within and between blocks.
//!
//! An access is ordered before one of a later block if a fence follows it, both blocks executed an atomic operation, and the later
//! one a fence after its own. The fence is the same thread's, or any thread's of the block after a barrier: the barrier orders the
//! access before it. An atomic operation with `acq_rel` is a fence before it and after it.

use super::Machine;
use super::shared::stride;
use super::warp::Thread;
use crate::memory::{ATOMIC, Cell, MANY_BLOCKS, MANY_THREADS, READ_NC};

/// Fences of a block that has run.
pub(super) struct Fences {
    /// Number of fences of each thread.
    pub of_threads: Vec<u16>,
    /// Epoch of the last fence of any thread.
    pub last_epoch: u32,
}

impl Fences {
    fn any(&self) -> bool {
        self.last_epoch > 0
    }
}

/// A write, as it is ordered with other blocks.
#[derive(Clone, Copy)]
struct Write {
    /// Index of the thread in its block.
    thread: u32,
    /// Number of the thread's fences before it.
    fences: u16,
    epoch: u32,
}

impl Write {
    /// The last write of `cell`, by a thread with this index in its block.
    fn of(thread: u32, cell: &Cell) -> Self {
        Write { thread, fences: cell.writer_fences, epoch: cell.write_epoch }
    }
}

/// An access of a thread to device memory.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Index of the buffer.
    pub buffer: usize,
    /// Offset in the buffer.
    pub offset: usize,
    pub bytes: u32,
}

impl Place {
    fn bytes(self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.bytes as usize
    }
}

/// How a load goes through the caches.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// Non-coherent.
    pub nc: bool,
    /// Past the first-level cache.
    pub cg: bool,
}

/// What a store writes.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    /// Kind of the value.
    pub kind: u8,
    pub atomic: bool,
}

impl Machine<'_> {
    pub(super) fn buffer_of(&mut self, address: u64, bytes: u32) -> Option<usize> {
        if self.buffers.get(self.last).is_some_and(|buffer| buffer.holds(address, bytes)) {
            return Some(self.last);
        }
        let at = self.buffers.partition_point(|buffer| buffer.start <= address).checked_sub(1)?;
        if self.buffers[at].holds(address, bytes) {
            self.last = at;
            return Some(at);
        }
        None
    }

    /// Place of an access, or none with a finding.
    pub(super) fn global_place(&mut self, address: u64, bytes: u32, thread: Thread) -> Option<Place> {
        self.check_begun(address, thread);
        self.place(address, bytes, thread)
    }

    /// Place of a load. Before the wait for the launch ahead it may read what no launch in flight writes. It must go past
    /// the first-level cache, which may hold what was there before.
    pub(super) fn place_to_load(
        &mut self,
        address: u64,
        bytes: u32,
        path: Path,
        thread: Thread,
    ) -> Option<Place> {
        if !path.cg {
            return self.global_place(address, bytes, thread);
        }
        let place = self.place(address, bytes, thread)?;
        if self.kernel.overlaps && !thread.begun && self.buffers[place.buffer].in_flight {
            self.find("load before griddepcontrol.wait of what a launch in flight writes", thread, || {
                format!("offset {} of the buffer", place.offset)
            });
        }
        Some(place)
    }

    fn place(&mut self, address: u64, bytes: u32, thread: Thread) -> Option<Place> {
        if !address.is_multiple_of(u64::from(bytes)) {
            self.find("misaligned global access", thread, || format!("{bytes} bytes at {address:#x}"));
            return None;
        }
        let Some(buffer) = self.buffer_of(address, bytes) else {
            self.report_bounds(address, bytes, thread);
            return None;
        };
        let offset = (address - self.buffers[buffer].start) as usize;
        Some(Place { buffer, offset, bytes })
    }

    pub(super) fn check_begun(&mut self, address: u64, thread: Thread) {
        if self.kernel.overlaps && !thread.begun {
            self.find("global access before griddepcontrol.wait", thread, || format!("{address:#x}"));
        }
    }

    pub(super) fn report_bounds(&mut self, address: u64, bytes: u32, thread: Thread) {
        let distance = |start: u64, end: u64| address.abs_diff(start).min(address.abs_diff(end));
        let near = self.buffers.iter().min_by_key(|buffer| distance(buffer.start, buffer.end()));
        let near = near.map_or("no buffer is given".to_string(), |buffer| {
            let offset = address.wrapping_sub(buffer.start) as i64;
            format!("offset {offset} of the nearest buffer, which has {} bytes", buffer.bytes)
        });
        self.find("out of bounds", thread, || format!("{bytes} bytes at {near}"));
    }

    /// Whether a block's write, or its reads for `None`, are ordered before the running block.
    fn is_ordered(&self, block: u32, write: Option<Write>) -> bool {
        let Some(fences) = self.over.get(&block) else { return false };
        let fenced = match write {
            Some(Write { thread, fences: before, epoch }) => {
                fences.of_threads[thread as usize] > before || fences.last_epoch > epoch
            }
            None => fences.any(),
        };
        fenced && self.acquired
    }

    pub(super) fn note_read(&mut self, place: Place, path: Path, thread: Thread) {
        let buffer = &self.buffers[place.buffer];
        let written = &buffer.written[place.bytes()];
        if written.contains(&0) && !is_row_padding(written) {
            let size = buffer.bytes;
            self.find("uninitialised global read", thread, || {
                format!("{} bytes at offset {} of {size} bytes", place.bytes, place.offset)
            });
        }
        if self.options.races {
            for byte in place.bytes().step_by(stride(place.bytes)) {
                self.check_read(place.buffer, byte, path, thread);
                self.record_read(place.buffer, byte, path, thread);
            }
        }
    }

    /// Index of a thread in the grid, plus one.
    fn grid_thread(&self, thread: Thread) -> u32 {
        self.block_linear * self.threads + thread.index + 1
    }

    fn check_read(&mut self, buffer: usize, byte: usize, path: Path, thread: Thread) {
        let cell = *self.buffers[buffer].cell(byte);
        if cell.writer == 0 {
            return;
        }
        let (block, writer) = ((cell.writer - 1) / self.threads, (cell.writer - 1) % self.threads);
        if path.nc {
            self.find("nc read of a value written in the same launch", thread, || {
                format!("offset {byte}, written by block {block}, thread {writer}")
            });
        }
        if block == self.block_linear {
            let other = cell.writer != self.grid_thread(thread);
            if other && cell.write_epoch == self.epoch && cell.flags & ATOMIC == 0 {
                self.find("race in global memory: read after write in a block", thread, || {
                    format!("offset {byte}, written by thread {writer}")
                });
            }
            return;
        }
        let what = match self.is_ordered(block, Some(Write::of(writer, &cell))) {
            false => "race in global memory: read of another block's write",
            true if !path.cg => "read of another block's write through the first-level cache",
            true => return,
        };
        self.find(what, thread, || format!("offset {byte}, written by block {block}, thread {writer}"));
    }

    fn record_read(&mut self, buffer: usize, byte: usize, path: Path, thread: Thread) {
        let (me, block, threads, epoch) =
            (self.grid_thread(thread), self.block_linear, self.threads, self.epoch);
        let cell = self.buffers[buffer].cell(byte);
        if cell.reader != 0 && cell.reader != me {
            if (cell.reader - 1) / threads != block {
                cell.flags |= MANY_BLOCKS;
                cell.flags &= !MANY_THREADS;
            } else if cell.read_epoch == epoch {
                cell.flags |= MANY_THREADS;
            } else {
                cell.flags &= !MANY_THREADS;
            }
        } else if cell.read_epoch != epoch {
            cell.flags &= !MANY_THREADS;
        }
        if path.nc {
            cell.flags |= READ_NC;
        }
        cell.reader = me;
        cell.read_epoch = epoch;
    }

    pub(super) fn note_write(&mut self, place: Place, stored: Stored, thread: Thread) {
        let buffer = &mut self.buffers[place.buffer];
        buffer.written[place.bytes()].fill(1);
        if buffer.kinds.is_empty() {
            buffer.kinds = vec![0; buffer.bytes as usize];
        }
        buffer.kinds[place.offset] = stored.kind;
        if !self.options.races {
            return;
        }
        let (me, epoch) = (self.grid_thread(thread), self.epoch);
        for byte in place.bytes().step_by(stride(place.bytes)) {
            self.check_write_after_write(place.buffer, byte, stored, thread);
            self.check_write_after_read(place.buffer, byte, stored, thread);
            let cell = self.buffers[place.buffer].cell(byte);
            cell.writer = me;
            cell.write_epoch = epoch;
            cell.writer_fences = thread.fences;
            cell.flags = if stored.atomic { cell.flags | ATOMIC } else { cell.flags & !ATOMIC };
        }
    }

    fn check_write_after_write(&mut self, buffer: usize, byte: usize, stored: Stored, thread: Thread) {
        let cell = *self.buffers[buffer].cell(byte);
        let both_atomic = stored.atomic && cell.flags & ATOMIC != 0;
        if cell.writer == 0 || cell.writer == self.grid_thread(thread) || both_atomic {
            return;
        }
        let (block, writer) = ((cell.writer - 1) / self.threads, (cell.writer - 1) % self.threads);
        if block == self.block_linear {
            if cell.write_epoch == self.epoch {
                self.find("race in global memory: two writes in a block", thread, || {
                    format!("offset {byte}, written by thread {writer}")
                });
            }
            return;
        }
        let is_counter = cell.flags & ATOMIC != 0 && self.atomics;
        if !is_counter && !self.is_ordered(block, Some(Write::of(writer, &cell))) {
            self.find("race in global memory: two blocks write", thread, || {
                format!("offset {byte}, written by block {block}, thread {writer}")
            });
        }
    }

    fn check_write_after_read(&mut self, buffer: usize, byte: usize, stored: Stored, thread: Thread) {
        let cell = *self.buffers[buffer].cell(byte);
        if cell.flags & READ_NC != 0 {
            self.find("write of a value read by nc in the same launch", thread, || format!("offset {byte}"));
        }
        if cell.reader == 0 || stored.atomic && cell.flags & ATOMIC != 0 {
            return;
        }
        let (block, reader) = ((cell.reader - 1) / self.threads, (cell.reader - 1) % self.threads);
        if block != self.block_linear {
            if !self.is_ordered(block, None) {
                self.find("race in global memory: write after another block's read", thread, || {
                    format!("offset {byte}, read by block {block}")
                });
            }
            return;
        }
        let others = cell.reader != self.grid_thread(thread) || cell.flags & MANY_THREADS != 0;
        if others && cell.read_epoch == self.epoch {
            self.find("race in global memory: write after read in a block", thread, || {
                format!("offset {byte}, read by thread {reader}")
            });
        }
        if cell.flags & MANY_BLOCKS != 0 && (!self.acquired || !self.over.values().all(Fences::any)) {
            let what = match self.atomics {
                false => "race in global memory: write after another block's read",
                true => "write after another block's read, ordered by an atomic without a fence",
            };
            self.find(what, thread, || format!("offset {byte}"));
        }
    }
}

/// Whether a wide read ends in the padding of a row: its first value was written, and only a tail was not. Rows of bf16
/// are padded to 16 bytes, and the padding may hold anything. Unwritten memory holds NaN, so a result that depends on it
/// is NaN.
fn is_row_padding(written: &[u8]) -> bool {
    let count = written.iter().take_while(|&&byte| byte != 0).count();
    written.len() >= 8 && count >= 2 && written[count..].iter().all(|&byte| byte == 0)
}
