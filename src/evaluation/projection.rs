//! Projection of embeddings to the plane: their first two principal components.
//!
//! ```text
//! C = sum_X (f_X - mean)(f_X - mean)^T / images,   C v = lambda v,   lambda_1 >= lambda_2 >= ...
//! X -> (<f_X - mean, v_1>, <f_X - mean, v_2>)
//! ```

use faer::{Mat, Side};

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
    let centred = Mat::from_fn(images, width, |image, column| value(image, column) - mean[column]);
    let covariance: Mat<f64> = faer::Scale(1.0 / images as f64) * (centred.transpose() * &centred);
    let total: f64 = (0..width).map(|column| covariance[(column, column)]).sum();
    if total <= 0.0 {
        return None;
    }
    // Eigenvalues are in ascending order.
    let eigen = covariance.self_adjoint_eigen(Side::Lower).ok()?;
    let axis = |from_last: usize| {
        let column = eigen.U().col(width - 1 - from_last);
        // Both directions are eigenvectors. Making the largest component positive gives the same one on every
        // machine.
        let largest = column.iter().fold(0.0f64, |most, &v| if v.abs() > most.abs() { v } else { most });
        faer::Scale(largest.signum()) * (&centred * column)
    };
    let (first, second) = (axis(0), axis(1));
    let share = |from_last: usize| eigen.S()[width - 1 - from_last].max(0.0) / total;
    Some(Projection {
        points: (0..images).map(|image| (first[image], second[image])).collect(),
        explained: (share(0), share(1)),
    })
}
