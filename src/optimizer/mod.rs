//! Adam (Kingma and Ba, 2014), bias-corrected, without weight decay.
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`.

use std::ops::Range;

/// Adam's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// lr.
    pub learning_rate: f64,
    /// b1.
    pub beta1: f64,
    /// b2.
    pub beta2: f64,
    /// eps.
    pub epsilon: f64,
}

impl Adam {
    /// The paper's optimizer with this learning rate.
    pub fn new(learning_rate: f64) -> Self {
        Adam { learning_rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// The factors of step t >= 1, with the bias corrections folded in.
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

/// One step's factors: `p -= rate m / (sqrt(v second_moment_correction) + epsilon)`.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// b1.
    pub beta1: f64,
    /// b2.
    pub beta2: f64,
    /// eps.
    pub epsilon: f64,
    /// lr / (1 - b1^t).
    pub rate: f64,
    /// 1 / (1 - b2^t).
    pub second_moment_correction: f64,
}

/// The parameters that a call takes a step of. A step may be taken in parts, each as soon as its gradients are made and its
/// parameters are read no more, so that it runs beside what makes the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Among the flat parameters.
    pub parameters: Range<usize>,
    /// Whether it is the step's last, which counts it: then all parts are done.
    pub ends_step: bool,
}

/// Adam's moments, in the layout of the parameters.
#[derive(Debug)]
pub struct Moments<T> {
    /// m.
    pub first: T,
    /// v.
    pub second: T,
}
