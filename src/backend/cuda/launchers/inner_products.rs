//! inner_products: a strip of the matrix of inner products between all pairs of rows
//! (`kernels/inner_products.cu`).

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct InnerProducts {
        /// `[strip_rows, rows]` inner products, overwritten.
        products: PointerMut<f64>,
        /// `[rows, width]` rows.
        values: Pointer<f32>,
        first_row: i32,
        strip_rows: i32,
        rows: i32,
        width: i32,
    }
}

/// Rows and columns of a block's tile, and threads per block, as in `kernels/inner_products.cuh`.
pub(crate) const SIDE: usize = 64;
pub(crate) const THREADS: u32 = 256;

const INNER_PRODUCTS: Kernel<InnerProducts> = Kernel::new("inner_products", [THREADS, 1, 1]);

/// Kernel of `kernels/inner_products.cu`.
pub(crate) const FILE: KernelFile = KernelFile { name: "inner_products", kernels: &[INNER_PRODUCTS.info()] };

/// Writes `products [R, rows]`: the inner products of R rows of `values [rows, width]`, starting at
/// `first_row`, with all rows. R follows from the length of `products`.
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
    let arguments = InnerProducts {
        products: products.into(),
        values: values.into(),
        first_row: int(first_row),
        strip_rows: int(strip_rows),
        rows: int(rows),
        width: int(width),
    };
    // SAFETY: lengths were checked; only `products` is written, which is borrowed mutably.
    unsafe { device.launch(&INNER_PRODUCTS, Blocks::rows(tiles), &arguments) }
}
