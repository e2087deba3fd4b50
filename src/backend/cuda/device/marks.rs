//! Events before and after each launch of a captured graph on a GPU. They are nodes of the graph, so a graph that was not
//! measured costs nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{CUevent_flags, CUevent_record_flags};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, sys};

use super::driver::MeasuredLaunch;

type Result<T> = std::result::Result<T, DriverError>;

/// Marks of the capture that was measured last.
#[derive(Default)]
pub(super) struct Marks {
    /// Whether captures are measured.
    measured: AtomicBool,
    /// Whether a measured graph is being captured.
    capturing: AtomicBool,
    launches: Mutex<Vec<Mark>>,
}

/// A launch between its two events.
struct Mark {
    kernel: &'static str,
    on_branch: bool,
    start: CudaEvent,
    end: CudaEvent,
}

impl Marks {
    /// Measures the following captures, or no longer.
    pub(super) fn measure(&self, measured: bool) {
        self.measured.store(measured, Ordering::Relaxed);
    }

    pub(super) fn begin_capture(&self) {
        if self.measured.load(Ordering::Relaxed) {
            self.lock().clear();
            self.capturing.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn end_capture(&self) {
        self.capturing.store(false, Ordering::Relaxed);
    }

    /// Records the event before a launch; `None` if it is not measured.
    pub(super) fn begin(&self, context: &Arc<CudaContext>, stream: &CudaStream) -> Result<Option<CudaEvent>> {
        if !self.capturing.load(Ordering::Relaxed) {
            return Ok(None);
        }
        record(context, stream).map(Some)
    }

    /// Records the event after the launch that began with `start`.
    pub(super) fn end(
        &self,
        start: CudaEvent,
        stream: &CudaStream,
        (kernel, on_branch): (&'static str, bool),
    ) -> Result<()> {
        let end = record(start.context(), stream)?;
        self.lock().push(Mark { kernel, on_branch, start, end });
        Ok(())
    }

    /// Times of the latest replay, which the host waits for.
    pub(super) fn read(&self) -> Result<Vec<MeasuredLaunch>> {
        let launches = self.lock();
        let Some(Mark { start: first, .. }) = launches.first() else { return Ok(Vec::new()) };
        let since_first = |event: &CudaEvent| first.elapsed_ms(event).map(|ms| f64::from(ms) * 1e3);
        launches
            .iter()
            .map(|Mark { kernel, on_branch, start, end }| {
                let (start_us, end_us) = (since_first(start)?, since_first(end)?);
                Ok(MeasuredLaunch { kernel, on_branch: *on_branch, start_us, end_us })
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new event, recorded by a node of the graph that is being captured.
fn record(context: &Arc<CudaContext>, stream: &CudaStream) -> Result<CudaEvent> {
    let event = context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
    // An ordinary record would only order streams, and the graph would hold no event.
    let external = CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
    // SAFETY: event and stream are live, and belong to the same context.
    unsafe { sys::cuEventRecordWithFlags(event.cu_event(), stream.cu_stream(), external) }.result()?;
    Ok(event)
}
