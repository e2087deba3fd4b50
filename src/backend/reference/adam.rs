//! adam_step and gradient_norm (see [`crate::optimizer`]).

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
    let (kept, gradient_scale) = (constant(adam.kept), constant(adam.gradient_scale));
    for (((p, &g), m), v) in values.iter_mut().zip(gradients).zip(first).zip(second) {
        let g = gradient_scale * g;
        *m = beta1 * *m + (F::one() - beta1) * g;
        *v = beta2 * *v + (F::one() - beta2) * g * g;
        let scale = (*v * constant(adam.second_moment_correction)).sqrt() + constant(adam.epsilon);
        *p = kept * *p - constant(adam.rate) * *m / scale;
    }
}

/// Euclidean norm of a whole gradient.
pub fn gradient_norm<F: Float>(gradients: &[F]) -> f64 {
    let squares = gradients.iter().map(|g| g.to_f64().expect("a float")).map(|g| g * g);
    squares.sum::<f64>().sqrt()
}
