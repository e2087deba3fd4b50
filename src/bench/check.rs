//! Comparison of a kernel's outputs with the expected ones: in the bench before a kernel is timed, and in the kernel
//! tests at random shapes.

use crate::backend::cuda::launchers::stored::StoredElement;

/// Expected values of one output.
#[derive(Clone, Debug)]
pub struct Output {
    /// Name of the output in messages.
    pub name: &'static str,
    /// Expected values, from the reference in double precision.
    pub values: Vec<f64>,
    /// Largest allowed error of each value.
    pub limits: Vec<f64>,
    /// Whether an expected NaN is valid, so that NaN must be written there. Otherwise NaN is wrong, even if the
    /// reference has it too.
    pub may_be_nan: bool,
}

/// Largest allowed error of the values of an output.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Error relative to the largest expected magnitude: a sum that happens to be near zero has the error of its
    /// neighbours.
    pub relative: f64,
    /// Lower bound of the magnitude that `relative` refers to: the size of the terms, where they cancel.
    pub least: f64,
    /// Upper bound of the absolute error.
    pub most: f64,
}

impl Output {
    /// Values that must be equal.
    pub fn exact(name: &'static str, values: Vec<f64>) -> Self {
        Output::within(name, values, 0.0)
    }

    /// Values with an allowed error of `limit`.
    pub fn within(name: &'static str, values: Vec<f64>, limit: f64) -> Self {
        Output { name, limits: vec![limit; values.len()], values, may_be_nan: false }
    }

    /// The same values, among which NaN is valid.
    pub fn with_nan(self) -> Self {
        Output { may_be_nan: true, ..self }
    }

    /// Values with an allowed error relative to the largest expected magnitude.
    pub fn near(name: &'static str, values: Vec<f64>, relative: f64) -> Self {
        let limit = relative * largest(&values);
        Output::within(name, values, limit)
    }

    /// Values with this tolerance.
    pub fn scaled(name: &'static str, values: Vec<f64>, tolerance: Tolerance) -> Self {
        let Tolerance { relative, least, most } = tolerance;
        let limit = (relative * largest(&values).max(least)).min(most);
        Output::within(name, values, limit)
    }

    /// The same values with additional limits; the smaller limit of each value counts.
    pub fn at_most(mut self, limits: Vec<f64>) -> Self {
        assert_eq!(self.limits.len(), limits.len(), "{}: limits", self.name);
        self.limits.iter_mut().zip(limits).for_each(|(limit, most)| *limit = limit.min(most));
        self
    }

    /// The same values stored as `T`. The limits include a last rounding to single precision; here it becomes a
    /// rounding to `T`.
    pub fn stored<T: StoredElement>(mut self) -> Self {
        let more = T::ROUNDING - f32::ROUNDING;
        for (limit, value) in self.limits.iter_mut().zip(&self.values) {
            *limit += more * (value.abs() + *limit);
        }
        self
    }
}

/// Largest magnitude; 0 if there are no values.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// Values that a kernel wrote to one output.
#[derive(Clone, Debug)]
pub struct Written {
    /// Values, followed by the cells that no kernel may write: spare rows and row padding.
    pub values: Vec<f64>,
    /// Value of a cell that no kernel wrote.
    pub unwritten: f64,
}

/// The value that used the largest share of its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worst {
    /// Name of the output.
    pub name: &'static str,
    /// Index of the value in the output.
    pub index: usize,
    /// Written value.
    pub got: f64,
    /// Expected value.
    pub want: f64,
    /// Error of the value; infinite if it is NaN, missing, or beyond the output.
    pub off: f64,
    /// Largest allowed error.
    pub limit: f64,
    /// Largest expected magnitude of the output; 1 if all expected values are 0.
    pub scale: f64,
}

impl Worst {
    /// Whether the value, and so every other, is within its limit.
    pub fn ok(&self) -> bool {
        self.off == 0.0 || self.off <= self.limit
    }

    fn share(&self) -> f64 {
        if self.off == 0.0 { 0.0 } else { self.off / self.limit }
    }
}

/// Worst value of all outputs; `None` if there is no value.
pub fn worst(outputs: &[Output], written: &[Written]) -> Option<Worst> {
    assert_eq!(outputs.len(), written.len(), "outputs, expected and written");
    let worst = outputs.iter().zip(written).filter_map(|(output, written)| worst_of(output, written));
    worst.max_by(|one, other| one.share().total_cmp(&other.share()))
}

fn worst_of(output: &Output, written: &Written) -> Option<Worst> {
    let Output { name, values, limits, may_be_nan } = output;
    let scale = Some(largest(values)).filter(|&largest| largest > 0.0).unwrap_or(1.0);
    let at = |index: usize, got: f64, want: f64, off: f64| {
        let limit = limits.get(index).copied().unwrap_or(0.0);
        Worst { name, index, got, want, off, limit, scale }
    };
    let count = written.values.len();
    if count < values.len() {
        return Some(at(count, f64::NAN, values[count], f64::INFINITY));
    }
    let (inside, beyond) = written.values.split_at(values.len());
    let stray = |value: &f64| value.to_bits() != written.unwritten.to_bits();
    if let Some(stray) = beyond.iter().position(stray) {
        return Some(at(values.len() + stray, beyond[stray], written.unwritten, f64::INFINITY));
    }
    let each = inside.iter().zip(values).enumerate().map(|(index, (&got, &want))| {
        let equal = got == want || (*may_be_nan && got.is_nan() && want.is_nan());
        let off = if equal { 0.0 } else { (got - want).abs() };
        at(index, got, want, if off.is_nan() { f64::INFINITY } else { off })
    });
    each.max_by(|one, other| one.share().total_cmp(&other.share()))
}

#[cfg(test)]
mod tests {
    use super::{Output, Tolerance, Worst, Written, worst};

    fn of(want: &[f64], limit: f64, got: &[f64]) -> Worst {
        let written = Written { values: got.to_vec(), unwritten: f64::NAN };
        worst(&[Output::within("y", want.to_vec(), limit)], &[written]).unwrap()
    }

    #[test]
    fn the_worst_value_used_most_of_its_limit() {
        let worst = of(&[1.0, -4.0], 0.5, &[1.0, -4.5]);
        assert_eq!((worst.index, worst.off, worst.scale, worst.ok()), (1, 0.5, 4.0, true));
        assert!(!of(&[1.0, -4.0], 0.49, &[1.0, -4.5]).ok());
        assert!(of(&[0.0], 0.0, &[0.0]).ok());
        assert!(!of(&[0.0], 0.0, &[1e-30]).ok());
    }

    #[test]
    fn nan_missing_values_and_values_beyond_the_output_are_wrong() {
        assert!(!of(&[1.0, 1.0], 9.0, &[f64::NAN, 1.0]).ok());
        assert!(!of(&[1.0, 1.0], 9.0, &[1.0]).ok());
        assert!(!of(&[1.0], 9.0, &[1.0, 0.0]).ok());
        assert!(of(&[1.0], 9.0, &[1.0, f64::NAN]).ok());
        assert!(!of(&[f64::NAN], 0.0, &[f64::NAN]).ok());
        let expected = Output::exact("y", vec![f64::NAN]).with_nan();
        let written = |value: f64| Written { values: vec![value], unwritten: 0.0 };
        assert!(worst(std::slice::from_ref(&expected), &[written(f64::NAN)]).unwrap().ok());
        assert!(!worst(&[expected], &[written(1.0)]).unwrap().ok());
    }

    #[test]
    fn limits_follow_the_largest_value_between_two_bounds() {
        let limit = |value: f64| {
            let tolerance = Tolerance { relative: 0.125, least: 1.0, most: 0.5 };
            Output::scaled("y", vec![value], tolerance).limits[0]
        };
        assert_eq!((limit(0.5), limit(-2.0), limit(8.0)), (0.125, 0.25, 0.5));
        let stored = Output::within("y", vec![1.0, 0.0], 0.5).stored::<half::bf16>();
        assert!(stored.limits[0] > stored.limits[1] && stored.limits[1] > 0.5);
    }
}
