//! Inner products between two sets of rows, in double precision, a block of rows at a time.
//!
//! The product of two f32 is exact in f64, so only the summation rounds. Both sides are padded with zero rows
//! to whole blocks, so the same code computes every product in the same order. Equal rows therefore give
//! equal products wherever they lie, and ties stay ties.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Rows per block: enough to amortise reading the other side, few enough that a block of products for 5,000
/// images (2.5 MB) stays in the cache.
pub(crate) const ROW_BLOCK: usize = 64;

/// f64 copy of f32 rows, padded with zero rows to a multiple of [`ROW_BLOCK`].
pub(crate) struct PaddedRows {
    /// `[padded_len, width]` values, row-major.
    values: Vec<f64>,
    len: usize,
    width: usize,
}

impl PaddedRows {
    /// Copies values of shape `[rows, width]`.
    pub(crate) fn new(values: &[f32], width: usize) -> Self {
        let len = values.len() / width;
        let mut copy = Vec::with_capacity(len.next_multiple_of(ROW_BLOCK) * width);
        copy.extend(values.iter().map(|&value| f64::from(value)));
        copy.resize(len.next_multiple_of(ROW_BLOCK) * width, 0.0);
        PaddedRows { values: copy, len, width }
    }

    /// Number of rows without the padding.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of rows with the padding: the stride between the products of consecutive left rows.
    pub(crate) fn padded_len(&self) -> usize {
        self.values.len() / self.width
    }

    /// `products[l, r] = <self[block * ROW_BLOCK + l], right[r]>`, `[ROW_BLOCK, right.padded_len()]`,
    /// computed on the calling thread. Resizes `products`.
    pub(crate) fn times(&self, block: usize, right: &PaddedRows, products: &mut Vec<f64>) {
        assert_eq!(self.width, right.width, "inner products: both sides have one width");
        let columns = right.padded_len();
        products.resize(ROW_BLOCK * columns, 0.0);
        let left = &self.values[block * ROW_BLOCK * self.width..][..ROW_BLOCK * self.width];
        matmul(
            MatMut::from_row_major_slice_mut(products, ROW_BLOCK, columns),
            Accum::Replace,
            MatRef::from_row_major_slice(left, ROW_BLOCK, self.width),
            MatRef::from_row_major_slice(&right.values, columns, self.width).transpose(),
            1.0,
            Par::Seq,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_give_equal_products_wherever_they_lie() {
        let width = 301;
        let pattern: Vec<f32> =
            (0..2 * width).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) / 3.0).collect();
        for len in [1, 2, 63, 65, 129, 200] {
            let values: Vec<f32> =
                (0..len).flat_map(|row| pattern[row % 2 * width..][..width].to_vec()).collect();
            let rows = PaddedRows::new(&values, width);
            let mut products = Vec::new();
            let mut seen = [None; 3];
            for block in 0..rows.padded_len() / ROW_BLOCK {
                rows.times(block, &rows, &mut products);
                for left in 0..ROW_BLOCK.min(len - block * ROW_BLOCK) {
                    for right in 0..len {
                        // Index 0: pair (0, 0); index 1: (0, 1) or (1, 0); index 2: (1, 1).
                        let product = products[left * rows.padded_len() + right].to_bits();
                        assert_eq!(
                            *seen[left % 2 + right % 2].get_or_insert(product),
                            product,
                            "{left} {right}"
                        );
                    }
                }
            }
        }
    }
}
