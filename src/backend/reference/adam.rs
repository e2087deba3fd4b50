//! adam_step (see [`crate::optimizer`]).

use num_traits::Float;

use crate::optimizer::AdamStep;

/// One step over flat arrays of one layout.
pub fn adam_step<F: Float>(
    adam: &AdamStep,
    values: &mut [F],
    gradients: &[F],
    first: &mut [F],
    second: &mut [F],
) {
    let constant = |value: f64| F::from(value).expect("a float");
    let (beta1, beta2) = (constant(adam.beta1), constant(adam.beta2));
    for (((p, &g), m), v) in values.iter_mut().zip(gradients).zip(first).zip(second) {
        *m = beta1 * *m + (F::one() - beta1) * g;
        *v = beta2 * *v + (F::one() - beta2) * g * g;
        let scale = (*v * constant(adam.second_moment_correction)).sqrt() + constant(adam.epsilon);
        *p = *p - constant(adam.rate) * *m / scale;
    }
}
