//! Inner products of many rows with many rows, in double precision, a block of rows at a time.
//!
//! Products of two f32 values are exact in f64, so only the order of summation rounds. Both sides are padded with
//! zero rows to whole blocks, so that every product is computed by the same code in the same order wherever it lies:
//! equal rows give equal products, to the last bit, and ties stay ties.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Rows per block: enough to amortise the reading of the other side, few enough that a block of products of 5,000
/// images (2.5 MB) stays in the cache.
pub(crate) const ROW_BLOCK: usize = 64;

/// f64 copy of f32 rows, with zero rows after the last up to a multiple of [`ROW_BLOCK`].
pub(crate) struct PaddedRows {
    /// `[padded_len, width]`
    values: Vec<f64>,
    len: usize,
    width: usize,
}

impl PaddedRows {
    /// Copies `[rows, width]` values.
    pub(crate) fn new(values: &[f32], width: usize) -> Self {
        let len = values.len() / width;
        let mut copy = Vec::with_capacity(len.next_multiple_of(ROW_BLOCK) * width);
        copy.extend(values.iter().map(|&value| f64::from(value)));
        copy.resize(len.next_multiple_of(ROW_BLOCK) * width, 0.0);
        PaddedRows { values: copy, len, width }
    }

    /// Rows without the padding.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Rows with the padding: the distance of a product to that of the next left row.
    pub(crate) fn padded_len(&self) -> usize {
        self.values.len() / self.width
    }

    /// `products[l, r] = <self[block * ROW_BLOCK + l], right[r]>`, `[ROW_BLOCK, right.padded_len()]`, on the calling
    /// thread. `products` is resized.
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
                        // (0, 0), (0, 1) or (1, 0), (1, 1)
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
