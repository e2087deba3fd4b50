//! The two streams of a device on the CPU. Kernels run when they are launched, but the streams guarantee only what a
//! GPU guarantees:
//!
//! - A copy is performed as late as possible, when something waits for it, and reads its source only then.
//!   Until then its destination holds -1.
//! - A launch counts as running until the host has waited for it. A copy that overwrites memory that it reads
//!   is an error.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Executor, bug};
use crate::backend::cuda::device::driver::{EventHandle, Stream};
use crate::backend::cuda::device::launch::Launch;
use crate::error::Result;

/// Streams, shared with their events.
#[derive(Clone)]
pub(super) struct SharedStreams(Arc<Mutex<Streams>>);

impl SharedStreams {
    pub(super) fn new(executor: Arc<dyn Executor>) -> Self {
        SharedStreams(Arc::new(Mutex::new(Streams {
            executor,
            launches: 0,
            finished_launches: 0,
            copies: 0,
            waiting: VecDeque::new(),
            destinations: HashMap::new(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates an event that counts as reached.
    pub(super) fn event(&self) -> HostEvent {
        HostEvent { streams: self.clone(), mark: Mark::Copies(0) }
    }
}

/// A point in one of the streams.
pub(super) struct HostEvent {
    streams: SharedStreams,
    mark: Mark,
}

impl EventHandle for HostEvent {
    fn record(&mut self, stream: Stream) -> Result<()> {
        self.mark = self.streams.lock().record(stream);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.streams.lock().wait(self.mark);
        Ok(())
    }

    fn host_wait(&self) -> Result<()> {
        self.streams.lock().host_wait(self.mark);
        Ok(())
    }
}

/// Number of launches, or of copies, called before the point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Launches(u64),
    Copies(u64),
}

pub(super) struct Streams {
    executor: Arc<dyn Executor>,
    /// Number of launches so far.
    launches: u64,
    /// Number of launches that the host has waited for.
    finished_launches: u64,
    /// Number of copies called so far.
    copies: u64,
    /// Latest copies, not performed yet.
    waiting: VecDeque<Copy>,
    /// Destinations of copies, by first address.
    destinations: HashMap<u64, Destination>,
}

struct Copy {
    from: u64,
    to: u64,
    bytes: usize,
}

struct Destination {
    bytes: u64,
    /// Number of the last launch with an argument address inside.
    last_launch: u64,
}

impl Streams {
    pub(super) fn record(&self, stream: Stream) -> Mark {
        match stream {
            Stream::Compute => Mark::Launches(self.launches),
            Stream::Copies => Mark::Copies(self.copies),
        }
    }

    /// Counts a launch, and records which destinations of copies it received.
    pub(super) fn launch(&mut self, launch: &Launch<'_>) {
        self.launches += 1;
        launch.for_each_address(|address| {
            for (&start, destination) in &mut self.destinations {
                if (start..start + destination.bytes).contains(&address) {
                    destination.last_launch = self.launches;
                }
            }
        });
    }

    /// Enqueues a copy. Fails if a launch may still be reading the destination.
    ///
    /// # Safety
    /// Both sides must have `bytes` bytes and live until the copy is waited for.
    pub(super) unsafe fn copy(&mut self, from: u64, to: u64, bytes: usize) -> Result<()> {
        let last_launch = self.destinations.get(&to).map_or(0, |destination| destination.last_launch);
        if last_launch > self.finished_launches {
            return Err(bug(
                self.executor.device(),
                "a copy overwrites what a launch may still be reading".into(),
            ));
        }
        self.destinations.insert(to, Destination { bytes: bytes as u64, last_launch });
        // SAFETY: guaranteed by the caller.
        unsafe { std::ptr::write_bytes(to as *mut u8, 0xff, bytes) };
        self.copies += 1;
        self.waiting.push_back(Copy { from, to, bytes });
        Ok(())
    }

    /// Performs the copies up to `mark`.
    fn wait(&mut self, mark: Mark) {
        let Mark::Copies(until) = mark else { return };
        while self.copies - (self.waiting.len() as u64) < until
            && let Some(Copy { from, to, bytes }) = self.waiting.pop_front()
        {
            // SAFETY: guaranteed by the caller of `copy`.
            unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
            self.executor.written(to, bytes);
        }
    }

    /// Makes the host wait for `mark`.
    pub(super) fn host_wait(&mut self, mark: Mark) {
        self.wait(mark);
        if let Mark::Launches(launches) = mark {
            self.finished_launches = self.finished_launches.max(launches);
        }
    }
}
