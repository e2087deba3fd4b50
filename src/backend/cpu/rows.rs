//! Loops over one row, compiled for every width of vector registers and selected at run time.
//!
//! Wider registers do not change results: no loop sums across lanes in an order that depends on the width,
//! and products are not fused into sums.

/// Runs `loops`, compiled for the widest vector registers of the machine.
#[inline(always)]
pub fn vectorised<R>(loops: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(loops)
}

/// `to += row`.
#[inline]
pub fn add(to: &mut [f32], row: &[f32]) {
    vectorised(
        #[inline(always)]
        || to.iter_mut().zip(row).for_each(|(to, value)| *to += value),
    );
}

/// `row *= factor`.
#[inline]
pub fn scale(row: &mut [f32], factor: f32) {
    vectorised(
        #[inline(always)]
        || row.iter_mut().for_each(|value| *value *= factor),
    );
}

/// Inner product, in a fixed number of partial sums.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const SUMS: usize = 16;
    vectorised(
        #[inline(always)]
        || {
            let mut sums = [0.0f32; SUMS];
            let (a, b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
            let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
            for (x, y) in a.zip(b) {
                for lane in 0..SUMS {
                    sums[lane] += x[lane] * y[lane];
                }
            }
            sums.iter().sum::<f32>() + tail
        },
    )
}

/// Euclidean norm of a row.
#[inline]
pub fn length(row: &[f32]) -> f32 {
    dot(row, row).sqrt()
}
