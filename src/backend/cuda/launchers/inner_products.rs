//! inner_products: a strip of the inner products of all rows with each other (`kernels/inner_products.cu`).

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::{Device, Grid, check_len};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = &["inner_products"];

/// As in the kernel: rows and columns of a block's tile, and its threads.
pub(crate) const SIDE: usize = 64;
pub(crate) const THREADS: u32 = 256;

/// `products [R, rows]`, the first R rows from `first_row` on, of `values [rows, width]` with all of them; R is as many as
/// `products` has room for.
pub fn inner_products(
    device: &Device,
    products: &mut SliceMut<'_, f64>,
    values: Slice<'_, f32>,
    first_row: usize,
    rows: usize,
    width: usize,
) -> Result<()> {
    let strip_rows = products.len().checked_div(rows).unwrap_or(0);
    check_len("inner_products: values", values.len(), rows * width);
    assert!(first_row + strip_rows <= rows, "rows {first_row} + {strip_rows} of {rows}");
    if strip_rows == 0 {
        return Ok(());
    }
    let tiles = strip_rows.div_ceil(SIDE) * rows.div_ceil(SIDE);
    let arguments =
        [products.into(), values.into(), first_row.into(), strip_rows.into(), rows.into(), width.into()];
    // SAFETY: as in kernels/inner_products.cu; lengths were checked; the products are borrowed mutably and alone written.
    unsafe { device.launch_positional("inner_products", Grid::rows(tiles, THREADS), &arguments) }
}
