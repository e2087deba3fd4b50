//! Pearson's r, in two passes: first the means, then the sums of products of the deviations.

/// Number of values per partial sum. Partial sums are then added up, so the rounding error grows with their
/// number instead of the number of values.
const BLOCK: usize = 1024;

/// Computes r of the finite values `x[i], y[i]`. Returns `None` if it is undefined: fewer than two
/// observations, or one side constant.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "pearson: one y per x");
    // Tested by comparison, because the rounded mean of equal values may differ from them.
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

/// r from the sums of products of the deviations; neither side is constant.
pub(super) fn r_of_sums([sum_xx, sum_yy, sum_xy]: [f64; 3]) -> Option<f64> {
    // The square roots are taken separately because the product of the sums may underflow. A side whose
    // variation is below the square root of the smallest double counts as constant.
    let r = sum_xy / sum_xx.sqrt() / sum_yy.sqrt();
    r.is_finite().then(|| r.clamp(-1.0, 1.0))
}

fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

fn mean(values: &[f64]) -> f64 {
    values.chunks(BLOCK).map(|block| block.iter().sum::<f64>()).sum::<f64>() / values.len() as f64
}
