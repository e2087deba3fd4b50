//! Learning rate of each step: a linear warm-up, then constant or falling to a final rate.
//!
//! With `W` steps of warm-up and `T` steps in all, the rate of step t (counted from 1) is
//!
//! ```text
//! t <= W    rate * t / W
//! t > W     constant  rate
//!           linear    rate + (last - rate) x
//!           cosine    last + (rate - last) (1 + cos(pi x)) / 2,     x = (t - 1 - W) / (T - W), at most 1
//! ```
//! These are PyTorch's `LinearLR` from 1 / W, followed by `LinearLR` or `CosineAnnealingLR` over T - W steps.

use std::f64::consts::PI;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Number of steps whose learning rates lie in a backend's memory at a time.
pub const RATE_STEPS: usize = 1024;

/// Course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// The learning rate does not change.
    #[default]
    Constant,
    /// It falls along a half period of a cosine.
    Cosine,
    /// It falls along a line.
    Linear,
}

/// Factors by which the learning rate changes over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// Course after the warm-up.
    pub course: Course,
    /// Number of steps of the warm-up.
    pub warmup: u64,
    /// Number of steps of the whole run.
    pub steps: u64,
    /// Learning rate at the end of a course that falls.
    pub last: f64,
}

impl Schedule {
    /// Whether the rate is the same in all steps.
    pub fn is_constant(&self) -> bool {
        self.course == Course::Constant && self.warmup == 0
    }

    /// Learning rate of step t >= 1; `rate` is the highest one.
    pub fn rate(&self, rate: f64, t: u64) -> f64 {
        if t <= self.warmup {
            return rate * t as f64 / self.warmup as f64;
        }
        let after = self.steps.saturating_sub(self.warmup).max(1);
        let x = ((t - 1 - self.warmup) as f64 / after as f64).min(1.0);
        match self.course {
            Course::Constant => rate,
            Course::Linear => rate * (1.0 - x) + self.last * x,
            Course::Cosine => self.last + (rate - self.last) * (1.0 + (PI * x).cos()) / 2.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_then_falls() {
        let schedule = |course| Schedule { course, warmup: 4, steps: 12, last: 0.1 };
        for course in [Course::Constant, Course::Cosine, Course::Linear] {
            let rates: Vec<f64> = (1..=13).map(|t| schedule(course).rate(1.0, t)).collect();
            assert_eq!(rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0], "{course:?}");
        }
        let middle_and_end = |course| [9, 13, 1000].map(|t| schedule(course).rate(1.0, t));
        assert_eq!(middle_and_end(Course::Constant), [1.0; 3]);
        assert_eq!(middle_and_end(Course::Linear), [0.55, 0.1, 0.1]);
        assert_eq!(middle_and_end(Course::Cosine), [0.55, 0.1, 0.1]);
        assert!(Schedule::default().is_constant() && !schedule(Course::Constant).is_constant());
    }
}
