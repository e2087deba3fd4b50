//! The emulator's two streams. Kernels run when they are launched, but the streams keep to what a GPU promises and no more:
//!
//! - A copy is performed as late as possible, when somebody waits for it, and reads its source only then. Until then its
//!   destination holds -1.
//! - A launch counts as running until the host has waited for it. A copy that overwrites what it reads is an error.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bug;
use crate::backend::cuda::device::driver::{EventHandle, Stream};
use crate::backend::cuda::device::launch::Launch;
use crate::error::Result;

/// The streams, shared with their events.
#[derive(Clone, Default)]
pub(super) struct SharedStreams(Arc<Mutex<Streams>>);

impl SharedStreams {
    pub(super) fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event that counts as reached.
    pub(super) fn event(&self) -> EmulatedEvent {
        EmulatedEvent { streams: self.clone(), mark: Mark::Copies(0) }
    }
}

/// A place in one of the streams.
pub(super) struct EmulatedEvent {
    streams: SharedStreams,
    mark: Mark,
}

impl EventHandle for EmulatedEvent {
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

/// How many launches, or copies, were called before.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Launches(u64),
    Copies(u64),
}

#[derive(Default)]
pub(super) struct Streams {
    /// Number of launches called.
    launches: u64,
    /// Number of these that the host knows to be over.
    finished_launches: u64,
    /// Number of copies called.
    copies: u64,
    /// The last copies called, which are not performed yet.
    waiting: VecDeque<Copy>,
    /// Where copies have written, by the first address.
    destinations: HashMap<u64, Destination>,
}

struct Copy {
    from: u64,
    to: u64,
    bytes: usize,
}

struct Destination {
    bytes: u64,
    /// Number of the last launch that was given an address inside.
    last_launch: u64,
}

impl Streams {
    pub(super) fn record(&self, stream: Stream) -> Mark {
        match stream {
            Stream::Compute => Mark::Launches(self.launches),
            Stream::Copies => Mark::Copies(self.copies),
        }
    }

    /// Counts a launch, and notes which destinations of copies it was given.
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

    /// Calls a copy. It is an error if a launch may still be reading the destination.
    ///
    /// # Safety
    /// Both sides must have `bytes` bytes and live until the copy is waited for.
    pub(super) unsafe fn copy(&mut self, from: u64, to: u64, bytes: usize) -> Result<()> {
        let last_launch = self.destinations.get(&to).map_or(0, |destination| destination.last_launch);
        if last_launch > self.finished_launches {
            return Err(bug("a copy overwrites what a launch may still be reading".into()));
        }
        self.destinations.insert(to, Destination { bytes: bytes as u64, last_launch });
        // SAFETY: as the caller promises.
        unsafe { std::ptr::write_bytes(to as *mut u8, 0xff, bytes) };
        self.copies += 1;
        self.waiting.push_back(Copy { from, to, bytes });
        Ok(())
    }

    /// Performs the copies before `mark`.
    fn wait(&mut self, mark: Mark) {
        let Mark::Copies(until) = mark else { return };
        while self.copies - (self.waiting.len() as u64) < until
            && let Some(Copy { from, to, bytes }) = self.waiting.pop_front()
        {
            // SAFETY: as the caller of `copy` promised.
            unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        }
    }

    /// The host waits for `mark`.
    pub(super) fn host_wait(&mut self, mark: Mark) {
        self.wait(mark);
        if let Mark::Launches(launches) = mark {
            self.finished_launches = self.finished_launches.max(launches);
        }
    }
}
