//! The three losses of a triple (paper, Table 1 and "Ranking Loss for Similarity Supervision").
//!
//! Each depends on the embeddings only through the difference of `toward = fA.fP` and `away = fA.fN`:
//!
//! - ranking:  `-T log Phat - (1 - T) log(1 - Phat)`, `Phat = sigmoid((toward - away) / nu)`,
//!   `T = sAP / (sAP + sAN)`, and 1/2 where both are 0
//! - triplet:  `max(away - toward + m, 0)`
//! - InfoNCE:  `-log(exp(toward / lambda) / (exp(toward / lambda) + exp(away / lambda)))`

use num_traits::Float;
use serde::{Deserialize, Serialize};

/// Kind of loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum LossKind {
    /// Cross entropy of the predicted probability that the positive is closer, against one from the captions.
    Ranking,
    /// Hinge loss on the difference of the two cosines.
    Triplet,
    /// Cross entropy of a softmax over the cosines of the positive and the negative.
    InfoNce,
}

/// A loss and its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Kind of loss.
    pub kind: LossKind,
    /// Temperature: nu of the ranking loss, lambda of InfoNCE.
    pub temperature: f64,
    /// Margin m of the triplet loss.
    pub margin: f64,
}

impl Loss {
    /// Loss of one triple, and its derivative with respect to `toward`; the derivative with respect to `away`
    /// is its negative.
    pub fn of_triple<F: Float>(
        &self,
        toward: F,
        away: F,
        similarity_positive: F,
        similarity_negative: F,
    ) -> (F, F) {
        let (zero, one) = (F::zero(), F::one());
        let constant = |value: f64| F::from(value).expect("a float");
        let temperature = constant(self.temperature);
        let logit = (toward - away) / temperature;
        match self.kind {
            LossKind::Ranking => {
                let both = similarity_positive + similarity_negative;
                let target = if both > zero { similarity_positive / both } else { constant(0.5) };
                (softplus(logit) - target * logit, (sigmoid(logit) - target) / temperature)
            }
            LossKind::Triplet => {
                let violation = away - toward + constant(self.margin);
                // NaN must propagate, so the comparison tests for the zero case.
                if violation <= zero { (zero, zero) } else { (violation, -one) }
            }
            LossKind::InfoNce => (softplus(-logit), (sigmoid(logit) - one) / temperature),
        }
    }
}

/// log(1 + e^x), without overflow.
fn softplus<F: Float>(x: F) -> F {
    if x > F::zero() { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

/// 1 / (1 + e^-x); e^-x may overflow to infinity, which gives the right limit 0.
fn sigmoid<F: Float>(x: F) -> F {
    F::one() / (F::one() + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];

    #[test]
    fn values_follow_the_formulas() {
        let (toward, away, s_p, s_n) = (0.7f64, 0.2, 0.8, 0.6);
        let (nu, m) = (0.5, 0.9);
        let of = |kind| Loss { kind, temperature: nu, margin: m }.of_triple(toward, away, s_p, s_n).0;
        let p = 1.0 / (1.0 + (-(toward - away) / nu).exp());
        let target = s_p / (s_p + s_n);
        assert!((of(LossKind::Ranking) - (-target * p.ln() - (1.0 - target) * (1.0 - p).ln())).abs() < 1e-14);
        assert!((of(LossKind::Triplet) - 0.4).abs() < 1e-14);
        let (e_p, e_n) = ((toward / nu).exp(), (away / nu).exp());
        assert!((of(LossKind::InfoNce) + (e_p / (e_p + e_n)).ln()).abs() < 1e-14);
    }

    #[test]
    fn derivatives_agree_with_central_differences() {
        for kind in KINDS {
            let loss = Loss { kind, temperature: 0.7, margin: 0.5 };
            for (toward, away) in [(0.3, 0.1), (-0.8, 0.9), (0.99, -0.4)] {
                let value = |t: f64, a: f64| loss.of_triple(t, a, 0.8, 0.3).0;
                let step = 1e-6;
                let numeric = (value(toward + step, away) - value(toward - step, away)) / (2.0 * step);
                let by_away = (value(toward, away + step) - value(toward, away - step)) / (2.0 * step);
                let analytic = loss.of_triple(toward, away, 0.8, 0.3).1;
                assert!((analytic - numeric).abs() < 1e-8, "{kind:?}: {analytic} against {numeric}");
                assert!((analytic + by_away).abs() < 1e-8, "{kind:?}: {analytic} against -{by_away}");
            }
        }
    }

    #[test]
    fn both_similarities_zero_mean_an_even_target() {
        let loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };
        let (value, derivative) = loss.of_triple(0.0f32, 0.0, 0.0, 0.0);
        assert!((value - std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(derivative, 0.0);
    }

    #[test]
    fn nan_stays_nan() {
        for kind in KINDS {
            let loss = Loss { kind, temperature: 1.0, margin: 0.5 };
            assert!(loss.of_triple(f32::NAN, 0.0, 0.5, 0.5).0.is_nan(), "{kind:?}");
        }
    }
}
