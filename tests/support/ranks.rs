//! Ranks that are threads of one process, for tests of what ranks exchange.
#![allow(dead_code)] // each test binary uses its part

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use scenerank::ranks::{Exchange, Ranks};

/// Longest wait for another rank.
const PATIENCE: Duration = Duration::from_secs(120);

/// A rank.
struct Thread {
    rank: usize,
    all: Arc<All>,
}

/// What the ranks share.
struct All {
    count: usize,
    /// Bytes that each rank has put down last.
    slots: Vec<Mutex<Vec<u8>>>,
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

#[derive(Default)]
struct Meeting {
    waiting: usize,
    /// Number of meetings before this one.
    before: u64,
    /// Whether a rank has ended.
    left: bool,
}

impl All {
    /// Waits for all ranks.
    fn meet(&self) {
        let mut meeting = self.meeting.lock().unwrap();
        meeting.waiting += 1;
        if meeting.waiting == self.count {
            meeting.waiting = 0;
            meeting.before += 1;
            self.changed.notify_all();
            return;
        }
        let before = meeting.before;
        let (meeting, late) = self
            .changed
            .wait_timeout_while(meeting, PATIENCE, |meeting| meeting.before == before && !meeting.left)
            .unwrap();
        let met = meeting.before > before && !late.timed_out();
        drop(meeting);
        assert!(met, "another rank has ended or is late");
    }
}

impl Thread {
    /// Puts down `own`, then reads what every rank has put down.
    fn exchange(&self, own: &[u8], mut read: impl FnMut(usize, &[u8])) {
        *self.all.slots[self.rank].lock().unwrap() = own.to_vec();
        self.all.meet();
        self.all.slots.iter().enumerate().for_each(|(rank, slot)| read(rank, &slot.lock().unwrap()));
        self.all.meet();
    }
}

impl Exchange for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.all.count
    }

    fn rank_on_machine(&self) -> usize {
        self.rank
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8]) {
        let part = own.len();
        self.exchange(own, |rank, bytes| all[rank * part..][..part].copy_from_slice(bytes));
    }

    fn all_to_all(&self, own: &[u8], received: &mut [u8]) {
        let part = own.len() / self.all.count;
        self.exchange(own, |rank, bytes| {
            received[rank * part..][..part].copy_from_slice(&bytes[self.rank * part..][..part]);
        });
    }
}

/// Runs `work` on each of `count` ranks, each with one thread for parallel loops. A rank that panics, or that waits for one that
/// has ended, is an error.
pub fn together<R: Send>(count: usize, work: impl Fn(Ranks) -> R + Sync) -> Vec<thread::Result<R>> {
    let slots = (0..count).map(|_| Mutex::default()).collect();
    let all = All { count, slots, meeting: Mutex::default(), changed: Condvar::new() };
    let (all, work) = (Arc::new(all), &work);
    thread::scope(|scope| {
        let start = |rank| {
            let all = Arc::clone(&all);
            scope.spawn(move || {
                let ranks = Ranks::new(Arc::new(Thread { rank, all: Arc::clone(&all) }));
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
                let done =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.install(|| work(ranks))));
                all.meeting.lock().unwrap().left = true;
                all.changed.notify_all();
                done
            })
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// [`together`] of ranks that all end well.
pub fn all_of<R: Send>(count: usize, work: impl Fn(Ranks) -> R + Sync) -> Vec<R> {
    together(count, work).into_iter().map(|done| done.expect("a rank")).collect()
}
