//! How long a device's work takes, without the host waiting for it: two events among the launches.

use super::Device;
use super::driver::StopwatchHandle;
use crate::error::Result;

/// Two points of time in the order of a device's work.
pub struct Stopwatch(Box<dyn StopwatchHandle>);

impl Device {
    /// A stopwatch that can be used many times.
    pub fn stopwatch(&self) -> Result<Stopwatch> {
        self.driver.clone().stopwatch().map(Stopwatch)
    }
}

impl Stopwatch {
    /// Starts when all work called before is done.
    pub fn start(&mut self) -> Result<()> {
        self.0.start()
    }

    /// Stops when all work called before is done.
    pub fn stop(&mut self) -> Result<()> {
        self.0.stop()
    }

    /// Milliseconds between start and stop; the host waits for both.
    pub fn elapsed_ms(&self) -> Result<f64> {
        self.0.elapsed_ms()
    }
}
