//! Adam (Kingma and Ba, 2014), bias-corrected; with weight decay it is AdamW (Loshchilov and Hutter, 2019).
//!
//! ```text
//! g = gradient * min(1, clip / (norm of the whole gradient + 1e-6)), if gradients are clipped
//! m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
//! p = (1 - lr decay) p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//! ```
//! Weights of linear layers and both embedding tables decay. Weights and biases of batch norm do not; the network has
//! no other biases. [`schedule`] gives lr of each step.

pub mod schedule;

use std::ops::Range;

use schedule::Schedule;

/// Constants of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate, lr: the highest one if it has a schedule.
    pub learning_rate: f64,
    /// Decay rate of the first moment, b1.
    pub beta1: f64,
    /// Decay rate of the second moment, b2.
    pub beta2: f64,
    /// Constant added to the denominator, eps.
    pub epsilon: f64,
    /// Weight decay; 0 for none.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient, to which longer ones are scaled down.
    pub clip_norm: Option<f64>,
    /// Course of the learning rate.
    pub schedule: Schedule,
}

/// Added to the norm of the gradient before the division, as PyTorch's `clip_grad_norm_` does.
pub const CLIP_EPSILON: f64 = 1e-6;

impl Adam {
    /// Optimizer of the paper, with this learning rate.
    pub fn new(learning_rate: f64) -> Self {
        Adam {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip_norm: None,
            schedule: Schedule::default(),
        }
    }

    /// Learning rate of step t >= 1.
    pub fn rate_at(&self, t: u64) -> f64 {
        self.schedule.rate(self.learning_rate, t)
    }

    /// Factors of step t >= 1, with the bias corrections folded in. `gradient_norm` is the norm of the whole gradient;
    /// it is only used if gradients are clipped.
    pub fn at_step(&self, t: u64, gradient_norm: f64) -> AdamStep {
        let exponent = t.min(i32::MAX as u64) as i32;
        let learning_rate = self.rate_at(t);
        AdamStep {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            rate: learning_rate / (1.0 - self.beta1.powi(exponent)),
            second_moment_correction: 1.0 / (1.0 - self.beta2.powi(exponent)),
            kept: 1.0 - learning_rate * self.weight_decay,
            gradient_scale: match self.clip_norm {
                // NaN stays NaN, so that training ends.
                Some(clip) if gradient_norm + CLIP_EPSILON <= clip => 1.0,
                Some(clip) => clip / (gradient_norm + CLIP_EPSILON),
                None => 1.0,
            },
        }
    }
}

/// Factors of one step. The moments take `s = gradient_scale g` in place of the gradient g; then
/// `p = kept p - rate m / (sqrt(v second_moment_correction) + epsilon)`.
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
    /// Share of a parameter that decay leaves, 1 - lr decay.
    pub kept: f64,
    /// Factor of the gradient, less than 1 if it is clipped.
    pub gradient_scale: f64,
}

impl AdamStep {
    /// The same step for parameters that do not decay.
    pub fn without_decay(self) -> Self {
        AdamStep { kept: 1.0, ..self }
    }
}

/// Number of steps taken and norm of the gradient, of a backend that keeps both on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostSteps {
    /// Number of steps taken.
    pub done: u64,
    /// Norm of the gradient with respect to all parameters, as last computed.
    pub gradient_norm: f64,
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
