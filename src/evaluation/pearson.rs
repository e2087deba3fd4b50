//! Pearson's r, in two passes: the means first, then the sums of products of the deviations.

/// Values per partial sum; partial sums are then added up, so the rounding error grows with their number instead of
/// with that of the values.
const BLOCK: usize = 1024;

/// r of the finite values `x[i], y[i]`; `None` where it is undefined: fewer than two observations, or one side
/// constant.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "pearson: one y per x");
    // By comparison: the rounded mean of equal values may differ from them, and its deviations from zero.
    if is_constant(x) || is_constant(y) {
        return None;
    }
    let mean_x = mean(x);
    let mean_y = mean(y);
    let (mut sum_xx, mut sum_yy, mut sum_xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
        for (&x, &y) in x.iter().zip(y) {
            let (dx, dy) = (x - mean_x, y - mean_y);
            xx += dx * dx;
            yy += dy * dy;
            xy += dx * dy;
        }
        sum_xx += xx;
        sum_yy += yy;
        sum_xy += xy;
    }
    r_of_sums([sum_xx, sum_yy, sum_xy])
}

/// r by the sums of products of the deviations, of sides that are not constant.
pub(super) fn r_of_sums([sum_xx, sum_yy, sum_xy]: [f64; 3]) -> Option<f64> {
    // The roots are taken apart because the product of the sums may underflow. A side that varies only below the
    // square root of the smallest double counts as constant.
    let r = sum_xy / sum_xx.sqrt() / sum_yy.sqrt();
    r.is_finite().then(|| r.clamp(-1.0, 1.0))
}

fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

fn mean(values: &[f64]) -> f64 {
    values.chunks(BLOCK).map(|block| block.iter().sum::<f64>()).sum::<f64>() / values.len() as f64
}
