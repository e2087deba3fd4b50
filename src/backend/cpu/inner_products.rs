//! Inner products between two sets of rows, in double precision, a block of rows at a time.
//!
//! The product of two f32 is exact in f64, so only the summation rounds. Its order is the same for all products
//! ([`scenerank_matmul`]). Equal rows therefore give equal products, to the last bit, and ties stay ties.

use scenerank_matmul::{Accumulate, MatMut, MatRef, Packed};

/// Rows per block: enough to amortise reading the other side, few enough that a block of products for 5,000
/// images (1.9 MB) stays in the cache.
pub(crate) const ROW_BLOCK: usize = 48;

/// Rows in double precision.
pub(crate) struct WideRows {
    /// `[len, width]`
    values: Vec<f64>,
    len: usize,
    width: usize,
}

impl WideRows {
    /// Copies `[rows, width]` values.
    pub(crate) fn new(values: &[f32], width: usize) -> Self {
        let len = values.len() / width;
        WideRows { values: values.iter().map(|&value| f64::from(value)).collect(), len, width }
    }

    fn matrix(&self) -> MatRef<'_, f64> {
        MatRef::new(&self.values, self.len, self.width)
    }

    /// The rows as the right side of inner products.
    pub(crate) fn right_side(&self) -> Packed<f64> {
        Packed::of(self.matrix().transpose())
    }

    /// `products[l, r] = <self[block * ROW_BLOCK + l], right[r]>`, `[rows of the block, rows of the right side]`, on the
    /// calling thread. `products` is resized.
    pub(crate) fn times(&self, block: usize, right: &Packed<f64>, products: &mut Vec<f64>) {
        let rows = block * ROW_BLOCK..self.len.min((block + 1) * ROW_BLOCK);
        products.resize(rows.len() * right.columns(), 0.0);
        let to = MatMut::new(products, rows.len(), right.columns());
        right.multiply(to, Accumulate::Replace, self.matrix().row_range(rows));
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
            let rows = WideRows::new(&values, width);
            let right = rows.right_side();
            let mut products = Vec::new();
            let mut seen = [None; 3];
            for block in 0..len.div_ceil(ROW_BLOCK) {
                rows.times(block, &right, &mut products);
                for left in 0..ROW_BLOCK.min(len - block * ROW_BLOCK) {
                    for column in 0..len {
                        // Index 0: pair (0, 0); index 1: (0, 1) or (1, 0); index 2: (1, 1).
                        let product = products[left * len + column].to_bits();
                        assert_eq!(
                            *seen[left % 2 + column % 2].get_or_insert(product),
                            product,
                            "{left} {column}"
                        );
                    }
                }
            }
        }
    }
}
