//! Measures the duration of device work without making the host wait: two events among the launches.

use super::Device;
use super::driver::StopwatchHandle;
use crate::error::Result;

/// Measures the time between two points in the order of a device's work.
pub struct Stopwatch(Box<dyn StopwatchHandle>);

impl Device {
    /// Creates a stopwatch, which can be used many times.
    pub fn stopwatch(&self) -> Result<Stopwatch> {
        self.driver.clone().stopwatch().map(Stopwatch)
    }
}

impl Stopwatch {
    /// Starts the measurement when all earlier work is done.
    pub fn start(&mut self) -> Result<()> {
        self.0.start()
    }

    /// Stops the measurement when all earlier work is done.
    pub fn stop(&mut self) -> Result<()> {
        self.0.stop()
    }

    /// Milliseconds between start and stop; the host waits for both.
    pub fn elapsed_ms(&self) -> Result<f64> {
        self.0.elapsed_ms()
    }
}
