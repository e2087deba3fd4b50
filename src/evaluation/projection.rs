//! Projection of embeddings to the plane: their first two principal components.
//!
//! ```text
//! C = sum_X (f_X - mean)(f_X - mean)^T / images,   C v = lambda v,   lambda_1 >= lambda_2 >= ...
//! X -> (<f_X - mean, v_1>, <f_X - mean, v_2>)
//! ```

use scenerank_matmul::{Accumulate, MatMut, MatRef, Packed, matmul};

use super::Embeddings;

/// Images in the plane of the largest variance.
pub struct Projection {
    /// `[images]` coordinates along the first and second component.
    pub points: Vec<(f64, f64)>,
    /// Share of the variance along each component.
    pub explained: (f64, f64),
}

/// Projects `embeddings`. Returns `None` if there are fewer than two images or columns, or if all images
/// coincide.
pub fn principal_plane(embeddings: Embeddings<'_>) -> Option<Projection> {
    let (images, width) = (embeddings.len(), embeddings.width());
    if images < 2 || width < 2 {
        return None;
    }
    let value = |image: usize, column: usize| f64::from(embeddings.row(image)[column]);
    let mean: Vec<f64> = (0..width)
        .map(|column| (0..images).map(|image| value(image, column)).sum::<f64>() / images as f64)
        .collect();
    let centred: Vec<f64> = (0..images)
        .flat_map(|image| mean.iter().enumerate().map(move |(column, mean)| value(image, column) - mean))
        .collect();
    let all = MatRef::new(&centred, images, width);
    let mut covariance = vec![f64::NAN; width * width];
    let to = MatMut::new(&mut covariance, width, width);
    matmul(&mut Packed::default(), to, Accumulate::Replace, all.transpose(), all);
    covariance.iter_mut().for_each(|value| *value /= images as f64);
    let total: f64 = (0..width).map(|column| covariance[column * width + column]).sum();
    if total <= 0.0 {
        return None;
    }
    let [first, second] = leading_eigenvectors(covariance, width);
    let points = centred.chunks_exact(width);
    Some(Projection {
        points: points.map(|row| (dot(row, &first.direction), dot(row, &second.direction))).collect(),
        explained: (first.value / total, second.value / total),
    })
}

struct Eigenvector {
    value: f64,
    /// Unit vector. Its largest component is positive, so that every machine takes the same of the two directions.
    direction: Vec<f64>,
}

/// Eigenvectors of the two largest eigenvalues of a symmetric matrix without negative eigenvalues.
///
/// Rotations of pairs of rows make all rows orthogonal (one-sided Jacobi method: Golub and Van Loan, *Matrix Computations*,
/// 8.6.3). Each row then is an eigenvalue times its eigenvector. The convergence is quadratic.
fn leading_eigenvectors(mut matrix: Vec<f64>, width: usize) -> [Eigenvector; 2] {
    /// Rows with a smaller cosine are orthogonal.
    const ORTHOGONAL: f64 = 1e-14;
    /// Rows whose part of the sum of squares is smaller are rounding errors of an eigenvalue 0.
    const NEGLIGIBLE: f64 = 1e-30;
    /// Far more than the six to ten that a matrix takes.
    const MOST_SWEEPS: usize = 60;
    let negligible = NEGLIGIBLE * dot(&matrix, &matrix);
    for _ in 0..MOST_SWEEPS {
        let mut rotated = false;
        for i in 1..width {
            let (before, rest) = matrix.split_at_mut(i * width);
            let q = &mut rest[..width];
            for p in before.chunks_exact_mut(width) {
                let (of_p, of_q, of_both) = (dot(p, p), dot(q, q), dot(p, q));
                if of_p.min(of_q) <= negligible || of_both.abs() <= ORTHOGONAL * (of_p * of_q).sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (of_q - of_p) / (2.0 * of_both);
                let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = cosine * tangent;
                for (p, q) in p.iter_mut().zip(&mut *q) {
                    (*p, *q) = (cosine * *p - sine * *q, sine * *p + cosine * *q);
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let mut rows: Vec<&[f64]> = matrix.chunks_exact(width).collect();
    rows.sort_by(|a, b| dot(b, b).total_cmp(&dot(a, a)));
    [rows[0], rows[1]].map(|row| {
        let value = dot(row, row).sqrt();
        let largest = row.iter().fold(0.0f64, |most, &v| if v.abs() > most.abs() { v } else { most });
        let scale = if value > 0.0 { largest.signum() / value } else { 0.0 };
        Eigenvector { value, direction: row.iter().map(|v| v * scale).collect() }
    })
}

/// Inner product, in eight partial sums.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const SUMS: usize = 8;
    let (a, b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0.0; SUMS];
    for (x, y) in a.zip(b) {
        (0..SUMS).for_each(|i| sums[i] += x[i] * y[i]);
    }
    sums.iter().sum::<f64>() + rest
}
