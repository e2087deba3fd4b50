//! Exchange of GPU memory between ranks by NCCL, which is loaded when it is needed, as the driver is.
//!
//! Its calls run on the compute stream, ordered as launches are.

use std::sync::Arc;

use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys;

use super::driver::{CommunicatorHandle, ID_BYTES};
use super::gpu::Gpu;
use crate::error::{Error, Result};

/// NCCL's communicator of this rank. It is never destroyed: that would wait for the other ranks, also after an error of one, and
/// the process ends after its training.
pub(super) struct Nccl {
    gpu: Arc<Gpu>,
    communicator: sys::ncclComm_t,
}

// SAFETY: NCCL allows calls from any thread, one at a time; the backend that owns this makes them one at a time.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

impl Gpu {
    /// Joins the GPUs of all ranks. `of_first` returns the argument of rank 0.
    pub(super) fn join_by_nccl(
        self: Arc<Self>,
        rank: usize,
        count: usize,
        of_first: &dyn Fn([u8; ID_BYTES]) -> [u8; ID_BYTES],
    ) -> Result<Box<dyn CommunicatorHandle>> {
        // SAFETY: this only tries to load the library.
        if !unsafe { sys::is_culib_present() } {
            let remedy = "install libnccl-dev (libnccl.so was not found), or start one rank";
            return Err(self.problem("no NCCL is installed, by which several GPUs train together", remedy));
        }
        self.bind()?;
        let id = match rank {
            0 => bytemuck::cast(result::get_uniqueid().map_err(failed(&self, "make an id"))?.internal),
            _ => [0; ID_BYTES],
        };
        let id = sys::ncclUniqueId { internal: bytemuck::cast(of_first(id)) };
        let (rank, count) = (rank as i32, count as i32);
        let mut communicator = std::ptr::null_mut();
        // SAFETY: `communicator` is written by the call; the GPU's context is current.
        let joined = unsafe { result::comm_init_rank(&mut communicator, count, id, rank) };
        done(joined, &self, "join the ranks")?;
        Ok(Box::new(Nccl { gpu: self, communicator }))
    }
}

impl CommunicatorHandle for Nccl {
    unsafe fn all_gather(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        let stream = self.gpu.stream_of_exchange()?.cast();
        let kind = sys::ncclDataType_t::ncclUint8;
        // SAFETY: guaranteed by the caller.
        let gathered = unsafe {
            result::all_gather(from as *const _, to as *mut _, bytes, kind, self.communicator, stream)
        };
        done(gathered, &self.gpu, "gather")
    }

    unsafe fn sum(&self, address: u64, count: usize) -> Result<()> {
        let stream = self.gpu.stream_of_exchange()?.cast();
        let (kind, sum) = (sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclSum);
        // SAFETY: guaranteed by the caller. NCCL works in place if both addresses are equal.
        let summed = unsafe {
            result::all_reduce(
                address as *const _,
                address as *mut _,
                count,
                kind,
                sum,
                self.communicator,
                stream,
            )
        };
        done(summed, &self.gpu, "sum")
    }
}

fn failed<'a>(gpu: &'a Gpu, operation: &'a str) -> impl Fn(NcclError) -> Error + 'a {
    move |NcclError(error)| {
        let words = format!("NCCL: {operation}: {error:?}");
        gpu.problem(
            words,
            "see its messages with NCCL_DEBUG=WARN; each rank of a machine needs a GPU of its own",
        )
    }
}

fn done(status: std::result::Result<NcclStatus, NcclError>, gpu: &Gpu, operation: &str) -> Result<()> {
    status.map(|_| ()).map_err(failed(gpu, operation))
}
