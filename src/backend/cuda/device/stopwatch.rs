//! How long a device's work takes, without the host waiting for it: two events among the launches.

use std::time::Instant;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use crate::backend::cuda::device::{Device, Kind};
use crate::error::Result;

/// Two points of time in the order of a device's work.
pub struct Stopwatch(Points);

enum Points {
    /// Set when the stream comes to them.
    Gpu { start: CudaEvent, end: CudaEvent },
    /// The emulator's launches are done when they return, so the host's clock tells.
    Host { start: Option<Instant>, end: Option<Instant> },
}

impl Device {
    /// A stopwatch that may be used again and again.
    pub fn stopwatch(&self) -> Result<Stopwatch> {
        match self.kind() {
            Kind::Gpu(gpu) => {
                // cudarc's default is an event without a time.
                let event = || gpu.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
                let failed = || gpu.failed("make an event");
                let (start, end) = (event().map_err(failed())?, event().map_err(failed())?);
                Ok(Stopwatch(Points::Gpu { start, end }))
            }
            Kind::Emulated(_) => Ok(Stopwatch(Points::Host { start: None, end: None })),
        }
    }

    /// Starts it when all that was called before is done.
    pub fn start(&self, stopwatch: &mut Stopwatch) -> Result<()> {
        match (self.kind(), &mut stopwatch.0) {
            (Kind::Gpu(gpu), Points::Gpu { start, .. }) => {
                start.record(gpu.stream()).map_err(gpu.failed("record an event"))
            }
            (Kind::Emulated(_), Points::Host { start, .. }) => {
                *start = Some(Instant::now());
                Ok(())
            }
            _ => panic!("a stopwatch of another device"),
        }
    }

    /// Stops it when all that was called before is done.
    pub fn stop(&self, stopwatch: &mut Stopwatch) -> Result<()> {
        match (self.kind(), &mut stopwatch.0) {
            (Kind::Gpu(gpu), Points::Gpu { end, .. }) => {
                end.record(gpu.stream()).map_err(gpu.failed("record an event"))
            }
            (Kind::Emulated(_), Points::Host { end, .. }) => {
                *end = Some(Instant::now());
                Ok(())
            }
            _ => panic!("a stopwatch of another device"),
        }
    }

    /// Milliseconds between start and stop; the host waits for both.
    pub fn elapsed_ms(&self, stopwatch: &Stopwatch) -> Result<f64> {
        match (self.kind(), &stopwatch.0) {
            (Kind::Gpu(gpu), Points::Gpu { start, end }) => {
                start.elapsed_ms(end).map(f64::from).map_err(gpu.failed("read an event"))
            }
            (Kind::Emulated(_), Points::Host { start: Some(start), end: Some(end) }) => {
                Ok(end.duration_since(*start).as_secs_f64() * 1e3)
            }
            _ => panic!("a stopwatch that did not run, or of another device"),
        }
    }
}
