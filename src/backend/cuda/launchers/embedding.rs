//! embedding: gathers table rows by type, for both tables, and computes the tables' gradients
//! (`kernels/embedding.cu`).

use half::bf16;

use super::stored::{StoredElement, stored_kernel};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct LookupArguments<T> {
        /// `[U, width]` looked-up rows, overwritten.
        rows: PointerMut<T>,
        /// `[V, width]` embedding table.
        table: Pointer<f32>,
        /// `[U]` types in use, ascending.
        types: Pointer<i32>,
        /// `[1]` number of rows U.
        row_count: Pointer<i32>,
    }

    struct EmbeddingForward<T> {
        /// Lookups for objects and for predicates.
        lookups: [LookupArguments<T>; 2],
        width: i32,
        /// Stride of `rows`.
        stride: i32,
    }

    struct LookupGradientArguments<T> {
        /// `[type_count, width]` gradient with respect to the table, overwritten.
        d_table: PointerMut<f32>,
        /// `[U, width]` gradient with respect to the rows.
        d_rows: Pointer<T>,
        /// `[U]` types in use, ascending.
        types: Pointer<i32>,
        /// `[1]` number of rows U.
        row_count: Pointer<i32>,
        type_count: i32,
        reserved: i32,
    }

    struct EmbeddingBackward<T> {
        /// Gradients for objects and for predicates.
        lookups: [LookupGradientArguments<T>; 2],
        width: i32,
        /// Stride of `d_rows`.
        stride: i32,
    }
}

/// Threads of a block, as in the kernels.
const THREADS: u32 = 128;

impl<T: StoredElement> EmbeddingForward<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("embedding_forward", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> EmbeddingBackward<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("embedding_backward", T), [THREADS, 1, 1]);
}

/// Kernels of `kernels/embedding.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "embedding",
    kernels: &[
        EmbeddingForward::<f32>::KERNEL.info(),
        EmbeddingForward::<bf16>::KERNEL.info(),
        EmbeddingBackward::<f32>::KERNEL.info(),
        EmbeddingBackward::<bf16>::KERNEL.info(),
    ],
};

/// Types of one table that occur in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Occurring<'a> {
    /// `[U]` types, ascending and unique.
    pub types: Slice<'a, i32>,
    /// Number of types in use, U.
    pub rows: Rows<'a>,
}

/// A table, and the rows to look up.
pub struct Lookup<'a, T> {
    /// `[U, D]` rows, overwritten.
    pub rows: SliceMut<'a, T>,
    /// `[V, D]` table.
    pub table: Slice<'a, f32>,
    /// Types to look up, below V.
    pub of: Occurring<'a>,
}

/// Gradient with respect to a table, and with respect to the rows that were looked up.
pub struct LookupGradient<'a, T> {
    /// `[V, D]` gradient with respect to the table, overwritten completely: zeros where no type occurs.
    pub d_table: SliceMut<'a, f32>,
    /// `[U, D]` gradient with respect to the rows.
    pub d_rows: Slice<'a, T>,
    /// Types that were looked up, below V.
    pub of: Occurring<'a>,
}

/// Grid with one block per row of each table, at least one per table.
fn blocks(of: [Occurring<'_>; 2]) -> Blocks {
    let rows = of.map(|of| of.rows.bound).into_iter().fold(1, usize::max);
    Blocks::new(rows, 2, 1)
}

impl Occurring<'_> {
    #[track_caller]
    fn check<T: StoredElement>(&self, rows: usize, width: usize) {
        check_len("embedding: rows", rows, self.rows.bound * T::stride(width));
        check_len("embedding: types", self.types.len(), self.rows.bound);
    }
}

/// Gathers the rows of the types in use from both tables.
pub fn embedding_forward<T: StoredElement>(
    device: &Device,
    lookups: [Lookup<'_, T>; 2],
    width: usize,
) -> Result<()> {
    let blocks = blocks(lookups.each_ref().map(|lookup| lookup.of));
    let lookups = lookups.map(|mut lookup| {
        lookup.of.check::<T>(lookup.rows.len(), width);
        LookupArguments {
            rows: (&mut lookup.rows).into(),
            table: lookup.table.into(),
            types: lookup.of.types.into(),
            row_count: lookup.of.rows.into(),
        }
    });
    let arguments = EmbeddingForward { lookups, width: int(width), stride: int(T::stride(width)) };
    // SAFETY: lengths were checked; the types of a batch lie below the vocabulary size; everything written is
    // borrowed mutably.
    unsafe { device.launch(&EmbeddingForward::KERNEL, blocks, &arguments) }
}

/// Writes the gradients with respect to both tables.
pub fn embedding_backward<T: StoredElement>(
    device: &Device,
    lookups: [LookupGradient<'_, T>; 2],
    width: usize,
) -> Result<()> {
    let blocks = blocks(lookups.each_ref().map(|lookup| lookup.of));
    let lookups = lookups.map(|mut lookup| {
        lookup.of.check::<T>(lookup.d_rows.len(), width);
        LookupGradientArguments {
            type_count: int(lookup.d_table.len() / width),
            d_table: (&mut lookup.d_table).into(),
            d_rows: lookup.d_rows.into(),
            types: lookup.of.types.into(),
            row_count: lookup.of.rows.into(),
            reserved: 0,
        }
    });
    let arguments = EmbeddingBackward { lookups, width: int(width), stride: int(T::stride(width)) };
    // SAFETY: lengths were checked; the types of a batch lie below the vocabulary size; everything written is
    // borrowed mutably.
    unsafe { device.launch(&EmbeddingBackward::KERNEL, blocks, &arguments) }
}
