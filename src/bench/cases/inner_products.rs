//! inner_products: a strip of the test images' products with each other.

use super::{ROUNDING, SEED, near, test_images};
use crate::backend::cuda::launchers::inner_products::inner_products;
use crate::backend::cuda::launchers::linear::Format;
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all_mut};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

const STRIP_ROWS: usize = 192;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (rows, width) = (test_images(sizes), sizes.config.state_width);
    let first_row = rows - STRIP_ROWS;
    vec![Case {
        kernel: "inner_products",
        shape: format!("[{STRIP_ROWS}, {width}] by [{rows}, {width}]"),
        // Reads the rows, writes products of eight bytes. Multiply-adds are in double precision.
        cost: Cost::of(rows * width + 2 * STRIP_ROWS * rows, 2 * STRIP_ROWS * rows * width),
        format: Format::Fp32,
        // That of the comparison: both sides are in double precision.
        prepare: Box::new(move |_| Prepared {
            host: Host {
                inputs: vec![Values::new(SEED).signed(rows * width)],
                others: OtherLengths { sums: STRIP_ROWS * rows, ..Default::default() },
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([values], [], [], others) = arrays.parts();
                inner_products(device, &mut all_mut(&mut others.wide_sums), values, first_row, rows, width)
            }),
            expected: near(ROUNDING, move |host| {
                let [values] = host.wide_inputs();
                let product = |(a, b): (&[f64], &[f64])| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
                let left = values[first_row * width..].chunks_exact(width);
                let pairs = left.flat_map(|a| values.chunks_exact(width).map(move |b| (a, b)));
                vec![pairs.map(product).collect()]
            }),
        }),
    }]
}
