//! Order of accesses by the warps of a block whose kernel uses barriers in shared memory. Each warp has a clock, and knows how
//! far it has synchronised with the clocks of the others. In other kernels the block's barriers are enough (`shared.rs`).

use super::Machine;
use super::shared::stride;
use super::warp::Thread;

/// Lanes of a warp that read a byte at the same clock: several.
const LANES: u32 = 32;

/// Clocks of a block's warps.
#[derive(Default)]
pub(super) struct Clocks {
    /// By warp, then by other warp: accesses of the other at an earlier clock precede this warp's next ones. A warp's own
    /// entry is its clock.
    known: Vec<Vec<u32>>,
    /// By pair of bytes, then by warp: clock of the latest read, and its lane or [`LANES`]; 0 for none.
    reads: Vec<u32>,
    /// By pair of bytes: the generic proxy's latest write, by [`Clocks::sequence`].
    written: Vec<u32>,
    /// By thread: its latest `fence.proxy.async`.
    fenced: Vec<u32>,
    /// Number of writes and proxy fences.
    sequence: u32,
}

impl Clocks {
    pub(super) fn new(warps: usize, bytes: usize) -> Self {
        let known = (0..warps).map(|warp| (0..warps).map(|other| u32::from(warp == other)).collect());
        Clocks {
            known: known.collect(),
            reads: vec![0; bytes.div_ceil(2) * warps],
            written: vec![0; bytes.div_ceil(2)],
            fenced: vec![0; warps * 32],
            sequence: 0,
        }
    }

    pub(super) fn now(&self, warp: usize) -> u32 {
        self.known[warp][warp]
    }

    /// Whether an access by `other` at its `clock` precedes the next ones of `warp`.
    pub(super) fn precedes(&self, other: usize, clock: u32, warp: usize) -> bool {
        self.known[warp][other] > clock
    }

    /// All lanes of a warp have met.
    pub(super) fn meet(&mut self, warp: usize) {
        self.known[warp][warp] += 1;
    }

    /// What a warp knows when it releases its accesses so far. One lane alone releases those that precede the last meeting of
    /// its warp.
    pub(super) fn release(&mut self, warp: usize, whole: bool) -> &[u32] {
        if whole {
            self.meet(warp);
        }
        &self.known[warp]
    }

    pub(super) fn acquire(&mut self, warp: usize, released: &[u32]) {
        let own = self.now(warp);
        for (known, released) in self.known[warp].iter_mut().zip(released) {
            *known = (*known).max(*released);
        }
        self.known[warp][warp] = own;
    }

    /// All warps have met.
    pub(super) fn barrier(&mut self) {
        (0..self.known.len()).for_each(|warp| self.meet(warp));
        let all: Vec<u32> = (0..self.known.len()).map(|warp| self.now(warp)).collect();
        self.known.iter_mut().for_each(|known| known.copy_from_slice(&all));
    }
}

impl Machine<'_> {
    /// Clock of an access by a thread: of its warp, or of the block's barriers.
    pub(super) fn clock(&self, thread: Thread) -> u32 {
        self.clocks.as_ref().map_or(self.epoch, |clocks| clocks.now(thread.warp()))
    }

    /// Whether an access by thread `other` of the block at `clock` is ordered before an access by `thread`.
    pub(super) fn is_before(&self, other: u32, clock: u32, thread: Thread) -> bool {
        match &self.clocks {
            Some(clocks) => clocks.precedes(other as usize / 32, clock, thread.warp()),
            None => clock != self.epoch,
        }
    }

    /// Notes reads of a kernel with clocks.
    pub(super) fn note_clocked_read(&mut self, place: usize, bytes: u32, thread: Thread) {
        let Some(clocks) = &mut self.clocks else { return };
        let (warp, count, lane) = (thread.warp(), clocks.known.len(), thread.index % 32);
        let now = clocks.now(warp) << 6;
        for byte in (place..place + bytes as usize).step_by(stride(bytes)) {
            let read = &mut clocks.reads[byte / 2 * count + warp];
            *read = if *read >> 6 == now >> 6 && *read != now | lane { now | LANES } else { now | lane };
        }
    }

    /// A thread whose read of the byte is not ordered before a write by `thread`.
    pub(super) fn unordered_reader(&self, byte: usize, thread: Thread) -> Option<u32> {
        let clocks = self.clocks.as_ref()?;
        let (own, count) = (thread.warp(), clocks.known.len());
        let reads = &clocks.reads[byte / 2 * count..][..count];
        let reader = reads.iter().enumerate().position(|(warp, &read)| {
            let by_itself = warp == own && read & 63 == thread.index % 32;
            read != 0 && !by_itself && !clocks.precedes(warp, read >> 6, own)
        })?;
        Some(reader as u32 * 32 + (reads[reader] & 63).min(31))
    }

    /// Notes a write by the generic proxy.
    pub(super) fn note_generic_write(&mut self, place: usize, bytes: u32) {
        let Some(clocks) = &mut self.clocks else { return };
        clocks.sequence += 1;
        clocks.written[place / 2..(place + bytes as usize).div_ceil(2)].fill(clocks.sequence);
    }

    /// `fence.proxy.async` by a thread.
    pub(super) fn fence_proxy(&mut self, thread: Thread) {
        if let Some(clocks) = &mut self.clocks {
            clocks.sequence += 1;
            clocks.fenced[thread.index as usize] = clocks.sequence;
        }
    }

    /// Whether the thread that wrote the byte through the generic proxy executed a proxy fence after it.
    pub(super) fn is_fenced(&self, byte: usize, writer: u32) -> bool {
        self.clocks.as_ref().is_none_or(|clocks| clocks.fenced[writer as usize] > clocks.written[byte / 2])
    }
}
