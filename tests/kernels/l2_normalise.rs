//! l2_normalise: the cases of the bench at random shapes, and the gradient against finite differences.

use crate::support::agreement::{all_agree, outputs, with};
use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{check, columns, rows, seeds};
use crate::support::{Values, assert_within, wide};
use half::bf16;
use scenerank::backend::reference::l2_normalise as reference;
use scenerank::bench::cases::Shape;
use scenerank::bench::cases::l2_normalise::{Rows, backward, forward};
use scenerank::bench::matrix::HostMatrix;

#[test]
fn forward_and_backward_agree_with_the_reference() {
    check(100, (rows(), columns(), seeds()), |(rows, columns, seed)| {
        let (shape, of) = (Shape { rows, columns, seed }, Rows::FirstIsZero);
        all_agree(seed, [forward::<f32>(shape, of), backward::<f32>(shape, of)]);
        all_agree(seed, [forward::<bf16>(shape, of), backward::<bf16>(shape, of)]);
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (1..=4usize, 1..=5usize, seeds()), |(rows, columns, seed)| {
        // norm(z) = z and every ReLU passes, so y = z, with a length of at least 1/2.
        let y = Values::new(seed).positive(rows * columns);
        let case = backward::<f32>(Shape { rows, columns, seed }, Rows::Drawn);
        let [d_x, _] = (case.prepare)(0).host.wide_stored();
        let want = central_differences(&wide(&y), |y| {
            let mut x = y.to_vec();
            reference::l2_normalise(&mut x, columns);
            weighted_sum(&d_x, &x)
        });
        let case = with(case, move |spare, prepared| {
            prepared.host.stored[1] = HostMatrix::new::<f32>(y.clone(), columns).with_room(spare);
            prepared.host.inputs = [0.0, 1.0, 1.0, 0.0].map(|value| vec![value; columns]).to_vec();
        });
        // d_x and x (x . d_x), both up to sqrt(5), are divided by a length of at least 1/2: about ten roundings of 4.
        assert_within("d_y", &outputs(seed, case.kernel, &case.prepare)[0], &want, 2e-6);
    });
}
