//! Barriers in shared memory. A phase ends when all arrivals that it expects have come; the next one then begins. A wait names
//! a phase by its parity, and ends if the current phase has the other parity.

use super::Machine;
use super::warp::{Thread, Warp};
use crate::kernel::Inst;
use crate::operation::{Mbarrier, lanes};
use crate::timing::{Times, latest};

/// Bytes of a barrier.
const BYTES: u32 = 8;

/// A barrier.
pub(super) struct Barrier {
    /// Arrivals by phase.
    expected: u32,
    /// Arrivals still to come.
    pending: u32,
    /// Phases that have ended.
    phase: u32,
    /// What the threads that have arrived knew (`clocks.rs`).
    arrived: Vec<u32>,
    /// The same when the last phase ended.
    ended: Vec<u32>,
    /// Modelled times of the latest arrival, and of the end of the last phase.
    times: [Times; 2],
}

impl Machine<'_> {
    /// Executes an instruction on barriers. Returns the lanes that have to wait.
    pub(super) fn mbarrier(
        &mut self,
        inst: &Inst,
        kind: Mbarrier,
        mask: u32,
        pc: u32,
        warp: &mut Warp,
    ) -> u32 {
        let mut waiting = 0;
        for lane in lanes(mask) {
            let thread = warp.thread(pc, lane);
            let address = warp.registers.shared_address(inst.src[0], inst.imm, lane);
            let Some(place) = self.shared_place(address, BYTES, thread) else { continue };
            match kind {
                Mbarrier::Init => {
                    let count = warp.registers.get(inst.src[1], lane) as u32;
                    self.begin_barrier(place, count, thread);
                }
                Mbarrier::Arrive => {
                    let time = warp.time.as_ref().map(|time| time.arrived());
                    self.arrive(place, mask == u32::MAX && lane == 31, time, thread);
                }
                Mbarrier::Wait => {
                    let parity = warp.registers.get(inst.src[1], lane) as u32;
                    match self.has_ended(place, parity, thread) {
                        true => {
                            warp.registers.set(inst.dst, lane, 1);
                            self.pass_phase(place, pc, warp);
                        }
                        false => waiting |= 1 << lane,
                    }
                }
            }
        }
        waiting
    }

    fn begin_barrier(&mut self, place: usize, count: u32, thread: Thread) {
        self.note_shared_write(place, BYTES, thread);
        if count == 0 || count >= 1 << 20 {
            self.find("a barrier for no arrivals or too many", thread, || format!("{count}"));
        }
        let none = vec![0; self.threads.div_ceil(32) as usize];
        let barrier = Barrier {
            expected: count,
            pending: count,
            phase: 0,
            arrived: none.clone(),
            ended: none,
            times: [[0; 4]; 2],
        };
        if self.barriers.insert(place, barrier).is_some() {
            self.find("a barrier is made twice", thread, || format!("at {place}"));
        }
    }

    /// Whether the bytes are a barrier that the thread may use.
    fn check_barrier(&mut self, place: usize, thread: Thread) -> bool {
        if !self.barriers.contains_key(&place) {
            self.find("no barrier at this address", thread, || format!("{place}"));
            return false;
        }
        // The thread that made it wrote it; arrivals and waits are atomic among themselves.
        let cell = self.shared_cells[place];
        let Some(made_by) = u32::from(cell.writer).checked_sub(1) else { return true }; // races are not looked for
        if made_by != thread.index && !self.is_before(made_by, cell.write_epoch, thread) {
            self.find("use of a barrier that may not be made yet", thread, || {
                format!("{place}, made by thread {made_by}")
            });
        }
        true
    }

    /// One arrival. `last`: it is the last of a whole warp that arrives together.
    fn arrive(&mut self, place: usize, last: bool, time: Option<Times>, thread: Thread) {
        if !self.check_barrier(place, thread) {
            return;
        }
        let Some(clocks) = &mut self.clocks else { return };
        let known = clocks.release(thread.warp(), last);
        let barrier = self.barriers.get_mut(&place).expect("checked");
        for (all, known) in barrier.arrived.iter_mut().zip(known) {
            *all = (*all).max(*known);
        }
        barrier.times[0] = latest(barrier.times[0], time.unwrap_or_default());
        barrier.pending -= 1;
        if barrier.pending == 0 {
            barrier.pending = barrier.expected;
            barrier.phase += 1;
            barrier.ended.clone_from(&barrier.arrived);
            barrier.times[1] = barrier.times[0];
        }
    }

    /// Lets the modelled time of a warp pass the end of the last phase.
    fn pass_phase(&self, place: usize, pc: u32, warp: &mut Warp) {
        if let (Some(timing), Some(time), Some(barrier)) =
            (&self.timing, &mut warp.time, self.barriers.get(&place))
        {
            time.pass_phase(timing.phase_end(barrier.times[1]), pc);
        }
    }

    /// Whether the phase with this parity has ended. If so, the thread sees what precedes its arrivals.
    fn has_ended(&mut self, place: usize, parity: u32, thread: Thread) -> bool {
        if parity > 1 {
            self.find("a parity that is not 0 or 1", thread, || format!("{parity}"));
        }
        if !self.check_barrier(place, thread) {
            return true;
        }
        let barrier = &self.barriers[&place];
        if barrier.phase % 2 == parity {
            return false;
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.acquire(thread.warp(), &barrier.ended);
        }
        true
    }

    /// Reports a plain access to a barrier's bytes.
    pub(super) fn check_no_barrier(&mut self, place: usize, bytes: u32, thread: Thread) {
        let first = place.saturating_sub(BYTES as usize - 1);
        let end = place + bytes as usize;
        if let Some(at) = self.barriers.range(first..end).next().map(|(&at, _)| at) {
            self.find("plain access to a barrier", thread, || format!("at {at}"));
        }
    }
}
