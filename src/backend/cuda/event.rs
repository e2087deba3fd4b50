//! Points of time in the order of a device's work, and how far apart they are: how kernels are timed without the host
//! waiting for each.

use std::time::Instant;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use super::device::{Device, Kind};
use crate::error::Result;

/// A point of time, once [`Device::record`] has set it.
pub struct Event(Point);

enum Point {
    /// Set when the stream comes to it.
    Gpu(CudaEvent),
    /// The emulator's work is done when a call returns, so the host's clock tells.
    Host(Option<Instant>),
}

impl Device {
    /// An event that is not yet set.
    pub fn event(&self) -> Result<Event> {
        match &self.kind {
            Kind::Gpu(gpu) => {
                // cudarc's default is an event without a time.
                let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
                Ok(Event(Point::Gpu(gpu.context.new_event(flags).map_err(gpu.failed("make an event"))?)))
            }
            Kind::Emulated(_) => Ok(Event(Point::Host(None))),
        }
    }

    /// Sets `event` when all that was called before is done, without waiting for it.
    pub fn record(&self, event: &mut Event) -> Result<()> {
        match (&self.kind, &mut event.0) {
            (Kind::Gpu(gpu), Point::Gpu(event)) => {
                event.record(&gpu.stream).map_err(gpu.failed("record an event"))
            }
            (Kind::Emulated(_), Point::Host(time)) => {
                *time = Some(Instant::now());
                Ok(())
            }
            _ => panic!("an event of another device"),
        }
    }

    /// Milliseconds from `start` to `end`, both recorded; waits for `end`.
    pub fn milliseconds(&self, start: &Event, end: &Event) -> Result<f64> {
        match (&self.kind, &start.0, &end.0) {
            (Kind::Gpu(gpu), Point::Gpu(start), Point::Gpu(end)) => {
                start.elapsed_ms(end).map(f64::from).map_err(gpu.failed("read an event"))
            }
            (Kind::Emulated(_), Point::Host(Some(start)), Point::Host(Some(end))) => {
                Ok(end.duration_since(*start).as_secs_f64() * 1e3)
            }
            _ => panic!("an event that was not recorded, or of another device"),
        }
    }
}
