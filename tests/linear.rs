//! linear: the kernels against the reference in double precision.

mod kernel_support;

use kernel_support::{ROWS, Values, assert_within, devices, poisoned, to_device, to_host, wide};
use scenerank::backend::cuda::buffer::Buffer;
use scenerank::backend::cuda::linear::{
    Matrix, MatrixMut, Output, linear_backward_input, linear_backward_weight, linear_forward,
};
use scenerank::backend::reference::linear as reference;

/// Inputs and outputs: below, at and above a tile, no multiple of anything, one.
const WIDTHS: [(usize, usize); 5] = [(13, 19), (64, 64), (65, 1), (1, 65), (100, 67)];

/// A sum of n products of numbers below 1 stays near sqrt(n), and its n roundings, each of up to half an eps of it, add
/// up to about sqrt(n) of one: some n eps / 2, and twice that among thousands of sums.
fn limit(terms: usize) -> f64 {
    f64::from(f32::EPSILON) * (8.0 + terms as f64)
}

fn matrix(buffer: &Buffer<f32>, rows: usize, columns: usize) -> Matrix<'_> {
    Matrix::new(buffer.slice(0..buffer.len()), rows, columns)
}

fn matrix_mut(buffer: &mut Buffer<f32>, rows: usize, columns: usize) -> MatrixMut<'_> {
    let len = buffer.len();
    MatrixMut::new(buffer.slice_mut(0..len), rows, columns)
}

#[test]
fn all_three_products_agree_with_the_reference() {
    for device in devices() {
        for (case, (rows, (inputs, outputs))) in
            ROWS.iter().flat_map(|&rows| WIDTHS.map(|widths| (rows, widths))).enumerate()
        {
            let mut values = Values::new(case as u64);
            let (x, weight) = (values.signed(rows * inputs), values.signed(outputs * inputs));
            let d_y = values.signed(rows * outputs);
            let [x_there, weight_there, d_y_there] = [&x, &weight, &d_y].map(|v| to_device(&device, v));
            let (x_there, weight_there) =
                (matrix(&x_there, rows, inputs), matrix(&weight_there, outputs, inputs));
            let d_y_there = matrix(&d_y_there, rows, outputs);
            let (x, weight, d_y) = (wide(&x), wide(&weight), wide(&d_y));
            let name = |what: &str| format!("{what} [{rows}, {inputs} -> {outputs}]");

            let mut y = poisoned(&device, rows * outputs);
            let replace = Output::Replace;
            linear_forward(&device, &mut matrix_mut(&mut y, rows, outputs), x_there, weight_there, replace)
                .expect("a launch");
            let want = reference::linear(&x, &weight, inputs, outputs);
            assert_within(&name("y"), &to_host(&device, &y), &want, limit(inputs));

            let mut d_x = poisoned(&device, rows * inputs);
            let mut target = matrix_mut(&mut d_x, rows, inputs);
            linear_backward_input(&device, &mut target, d_y_there, weight_there, replace).expect("a launch");
            let want = reference::linear_backward_input(&d_y, &weight, inputs, outputs);
            assert_within(&name("d_x"), &to_host(&device, &d_x), &want, limit(outputs));

            let mut d_weight = poisoned(&device, outputs * inputs);
            let mut parts = poisoned(&device, 0);
            let mut target = matrix_mut(&mut d_weight, outputs, inputs);
            linear_backward_weight(&device, &mut target, d_y_there, x_there, &mut parts).expect("a launch");
            let mut want = vec![f64::NAN; outputs * inputs];
            reference::linear_backward_weight(&d_y, &x, inputs, outputs, &mut want);
            assert_within(&name("d_weight"), &to_host(&device, &d_weight), &want, limit(rows));
        }
    }
}

#[test]
fn parts_of_wider_matrices_are_read_written_and_added_to() {
    let (rows, width, hidden) = (70, 21, 34);
    for device in devices() {
        let mut values = Values::new(1);
        let (x, weight) = (values.signed(rows * width), values.signed(hidden * 3 * width));
        let before = values.signed(rows * 2 * hidden);
        let (x_there, weight_there) = (to_device(&device, &x), to_device(&device, &weight));
        let x_there = matrix(&x_there, rows, width);
        let part = matrix(&weight_there, hidden, 3 * width).columns(2 * width, width);
        let part_of_weight: Vec<f64> =
            weight.chunks_exact(3 * width).flat_map(|row| wide(&row[2 * width..])).collect();
        let product = reference::linear(&wide(&x), &part_of_weight, width, hidden);

        let mut y = to_device(&device, &before);
        let mut target = matrix_mut(&mut y, rows, 2 * hidden);
        linear_forward(&device, &mut target.columns(hidden, hidden), x_there, part, Output::Add)
            .expect("a launch");
        let mut want = wide(&before);
        for (row, product) in want.chunks_exact_mut(2 * hidden).zip(product.chunks_exact(hidden)) {
            row[hidden..].iter_mut().zip(product).for_each(|(y, p)| *y += p);
        }
        let got = to_host(&device, &y);
        assert_within("y", &got, &want, limit(width));
        let beside = |values: &[f32], row: usize| values[row * 2 * hidden..][..hidden].to_vec();
        assert!(
            (0..rows).all(|row| beside(&got, row) == beside(&before, row)),
            "columns beside the part changed"
        );
    }
}

#[test]
fn a_gradient_in_many_parts_has_the_same_bits_each_time() {
    let (rows, inputs, outputs) = (2000, 40, 30);
    let mut seen = Vec::new();
    for device in devices() {
        let mut values = Values::new(2);
        let (d_y, x) = (values.signed(rows * outputs), values.signed(rows * inputs));
        let (d_y_there, x_there) = (to_device(&device, &d_y), to_device(&device, &x));
        let mut d_weight = poisoned(&device, outputs * inputs);
        let mut parts = poisoned(&device, 0);
        let mut target = matrix_mut(&mut d_weight, outputs, inputs);
        let (d_y_matrix, x_matrix) = (matrix(&d_y_there, rows, outputs), matrix(&x_there, rows, inputs));
        linear_backward_weight(&device, &mut target, d_y_matrix, x_matrix, &mut parts).expect("a launch");
        assert!(parts.len() > outputs * inputs, "so many rows are split");
        let got = to_host(&device, &d_weight);
        let mut want = vec![f64::NAN; outputs * inputs];
        reference::linear_backward_weight(&wide(&d_y), &wide(&x), inputs, outputs, &mut want);
        assert_within("d_weight", &got, &want, limit(rows));
        seen.push(got);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "orders of threads change the bits");
}
