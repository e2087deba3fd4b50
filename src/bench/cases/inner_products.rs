//! inner_products: a strip of the inner products of all test images.

use super::test_images;
use crate::backend::cuda::launchers::inner_products::inner_products;
use crate::backend::cuda::launchers::linear::Format;
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, all_mut};
use crate::bench::chain::Chain;
use crate::bench::check::Output;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

const STRIP_ROWS: usize = 192;

/// Strip: some rows of a matrix, to be multiplied with all of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Strip {
    /// Number of rows of the matrix.
    pub rows: usize,
    /// Number of columns of the matrix.
    pub width: usize,
    /// First row of the strip.
    pub first_row: usize,
    /// Number of rows of the strip.
    pub count: usize,
    /// Seed of the values.
    pub seed: u64,
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let rows = test_images(sizes);
    let (first_row, count) = (rows - STRIP_ROWS, STRIP_ROWS);
    vec![strip(Strip { rows, width: sizes.config.state_width, first_row, count, seed: sizes.seed })]
}

/// Inner products of a strip.
pub fn strip(Strip { rows, width, first_row, count, seed }: Strip) -> Case {
    Case {
        kernel: "inner_products",
        shape: format!("[{count}, {width}] by [{rows}, {width}]"),
        // Reads the rows; writes products of eight bytes. Multiply-adds are in double precision.
        cost: Cost::of(rows * width + 2 * count * rows, 2 * count * rows * width),
        chain: Chain::product(width),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| Prepared {
            host: Host {
                inputs: vec![Values::new(seed).signed(rows * width)],
                others: OtherLengths { sums: count * rows, ..Default::default() },
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([values], [], [], others) = arrays.parts();
                inner_products(device, &mut all_mut(&mut others.wide_sums), values, first_row, rows, width)
            }),
            expected: Box::new(move |host, _| {
                let [values] = host.wide_inputs();
                let product = |(a, b): (&[f64], &[f64])| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
                let left = values[first_row * width..(first_row + count) * width].chunks_exact(width);
                let pairs = left.flat_map(|a| values.chunks_exact(width).map(move |b| (a, b)));
                let products = pairs.map(product).collect();
                // Products of two f32 are exact in double precision, and these sums run in the kernel's order. Without
                // rows there is no output.
                if count == 0 { Vec::new() } else { vec![Output::exact("products", products)] }
            }),
        }),
    }
}
