//! Adam (Kingma and Ba, 2014), bias-corrected, without weight decay.
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`.

use std::ops::Range;

/// Constants of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate, lr.
    pub learning_rate: f64,
    /// Decay rate of the first moment, b1.
    pub beta1: f64,
    /// Decay rate of the second moment, b2.
    pub beta2: f64,
    /// Constant added to the denominator, eps.
    pub epsilon: f64,
}

impl Adam {
    /// Optimizer of the paper, with this learning rate.
    pub fn new(learning_rate: f64) -> Self {
        Adam { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// Factors of step t >= 1, with the bias corrections folded in.
    pub fn at_step(&self, t: u64) -> AdamStep {
        let exponent = t.min(i32::MAX as u64) as i32;
        AdamStep {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            rate: self.learning_rate / (1.0 - self.beta1.powi(exponent)),
            second_moment_correction: 1.0 / (1.0 - self.beta2.powi(exponent)),
        }
    }
}

/// Factors of one step: `p -= rate m / (sqrt(v second_moment_correction) + epsilon)`.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Decay rate of the first moment, b1.
    pub beta1: f64,
    /// Decay rate of the second moment, b2.
    pub beta2: f64,
    /// Constant added to the denominator, eps.
    pub epsilon: f64,
    /// Learning rate with bias correction, lr / (1 - b1^t).
    pub rate: f64,
    /// Bias correction of the second moment, 1 / (1 - b2^t).
    pub second_moment_correction: f64,
}

/// Part of the parameters to update in one call. A step may be taken in parts, each as soon as its gradients
/// are final and its parameters are no longer read. An update then overlaps with the rest of the backward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Range of the flat parameters.
    pub parameters: Range<usize>,
    /// Whether this is the last part of the step, which increments the step count. All other parts are done
    /// by then.
    pub ends_step: bool,
}

/// Moments of Adam, in the layout of the parameters.
#[derive(Debug)]
pub struct Moments<T> {
    /// First moments m.
    pub first: T,
    /// Second moments v.
    pub second: T,
}
