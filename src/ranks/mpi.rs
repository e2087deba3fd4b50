//! Ranks that a launcher of MPI has started: `mpirun`, or `srun --mpi=pmix`.
//!
//! MPI ends the program if a call of it fails, so the exchanges return no errors.

use std::sync::{Arc, Mutex};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::Exchange;
use crate::error::{Error, Result};

/// MPI, from [`start`] to [`end`].
static STARTED: Mutex<Option<Universe>> = Mutex::new(None);

/// All ranks of the launcher.
struct World {
    rank: usize,
    count: usize,
    rank_on_machine: usize,
}

/// Starts MPI, once.
pub(super) fn start() -> Result<Arc<dyn Exchange>> {
    let refused = |problem: &str| Err(Error::argument("MPI", problem, "check the installation of MPI"));
    // Any thread of the CPU backend's pool may exchange, one at a time.
    let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
        return refused("was started before");
    };
    *STARTED.lock().expect("no thread panics with it") = Some(universe);
    if threading < Threading::Serialized {
        return refused("allows calls from the first thread only");
    }
    let world = SimpleCommunicator::world();
    let number = |rank: i32| usize::try_from(rank).expect("ranks are not negative");
    Ok(Arc::new(World {
        rank: number(world.rank()),
        count: number(world.size()),
        rank_on_machine: number(world.split_shared(world.rank()).rank()),
    }))
}

/// Ends MPI. After an error it ends the other ranks and this one.
pub(super) fn end(code: i32, failed: bool) {
    let Some(universe) = STARTED.lock().ok().and_then(|mut started| started.take()) else { return };
    if failed && universe.world().size() > 1 {
        universe.world().abort(code);
    }
    drop(universe); // waits for the other ranks
}

impl Exchange for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn rank_on_machine(&self) -> usize {
        self.rank_on_machine
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8]) {
        SimpleCommunicator::world().all_gather_into(own, all);
    }

    fn all_to_all(&self, own: &[u8], received: &mut [u8]) {
        SimpleCommunicator::world().all_to_all_into(own, received);
    }
}
