//! edge_hidden: adds up the parts of an edge's first product, and sums its gradient by node or type
//! (`kernels/edge_hidden.cu`).

use bytemuck::Zeroable;
use half::bf16;

use super::batch_norm::{BatchStatistics, CHUNK_ROWS, NormBackward};
use super::linear::Gradient;
use super::lists::{Ends, Lists, ListsArguments};
use super::norm_arguments::{NormBackwardArguments, StatisticsArguments};
use super::stored::{StoredElement, stored_kernel};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct EdgeHiddenLookup<T> {
        /// `[E, hidden]` sum of the three parts, overwritten.
        z: PointerMut<T>,
        statistics: StatisticsArguments,
        /// `[u, hidden]` product of the edge states or predicate embeddings.
        edge_projected: Pointer<T>,
        /// `[n, 2 hidden]` products of the nodes or object types, as subject and as object.
        projected: Pointer<T>,
        /// `[E] -> u` row of `edge_projected`.
        edge_row: Pointer<i32>,
        /// `[E] -> n` subject of each edge.
        subject: Pointer<i32>,
        /// `[E] -> n` object of each edge.
        object: Pointer<i32>,
        /// `[1]` number of edges E.
        edge_count: Pointer<i32>,
        hidden: i32,
        /// Stride of rows of `hidden` values.
        stride: i32,
        /// Stride of rows of `2 hidden` values.
        ends_stride: i32,
        reserved: i32,
    }

    /// [`Lengths`] in the kernels' form; null pointers if the sums are not divided.
    struct LengthsArguments<T> {
        /// `[n]` multiple of u to subtract, overwritten.
        along: PointerMut<f32>,
        /// `[n]` divisors of the rows.
        lengths: Pointer<f32>,
        /// `[n, 2 hidden]` products of the nodes or object types, as subject and as object.
        projected: Pointer<T>,
    }

    struct EdgeHiddenSumEnds<T> {
        /// `[n, 2 hidden]` sums by node or type, as subject and as object, overwritten.
        sums: PointerMut<T>,
        lengths: LengthsArguments<T>,
        /// `[E, hidden]` gradient with respect to z.
        d_z: Pointer<T>,
        by_row: ListsArguments,
        hidden: i32,
        stride: i32,
        ends_stride: i32,
        reserved: i32,
    }

    struct EdgeHiddenSumEndsThroughNorm<T> {
        /// `[n, 2 hidden]` sums by node or type, as subject and as object, overwritten.
        sums: PointerMut<T>,
        lengths: LengthsArguments<T>,
        /// `[E, hidden]` gradient with respect to relu(norm(z)).
        d: Pointer<T>,
        through: NormBackwardArguments<T>,
        by_row: ListsArguments,
        hidden: i32,
        stride: i32,
        ends_stride: i32,
        reserved: i32,
    }

    struct EdgeHiddenSumTypesThroughNorm<T> {
        /// `[u, hidden]` sums by predicate type, overwritten.
        edge_sums: PointerMut<T>,
        /// `[n, 2 hidden]` sums by object type, overwritten.
        end_sums: PointerMut<T>,
        /// `[E, hidden]` gradient with respect to relu(norm(z)).
        d: Pointer<T>,
        through: NormBackwardArguments<T>,
        by_predicate: ListsArguments,
        by_object: ListsArguments,
        /// Number of blocks for predicates; the blocks for objects follow.
        predicate_blocks: i32,
        hidden: i32,
        stride: i32,
        ends_stride: i32,
    }
}

/// Threads of a block, and columns of a strip, as in the kernels.
const THREADS: u32 = 128;
const LOOKUP_STRIP: usize = 64;
const LOOKUP_THREADS: u32 = 256;

impl<T: StoredElement> EdgeHiddenLookup<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_hidden_lookup", T), [LOOKUP_THREADS, 1, 1]);
}

impl<T: StoredElement> EdgeHiddenSumEnds<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_hidden_sum_ends", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> EdgeHiddenSumEndsThroughNorm<T> {
    const KERNEL: Kernel<Self> =
        Kernel::new(stored_kernel!("edge_hidden_sum_ends_through_norm", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> EdgeHiddenSumTypesThroughNorm<T> {
    const KERNEL: Kernel<Self> =
        Kernel::new(stored_kernel!("edge_hidden_sum_types_through_norm", T), [THREADS, 1, 1]);
}

/// Kernels of `kernels/edge_hidden.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "edge_hidden",
    kernels: &[
        EdgeHiddenLookup::<f32>::KERNEL.info(),
        EdgeHiddenLookup::<bf16>::KERNEL.info(),
        EdgeHiddenSumEnds::<f32>::KERNEL.info(),
        EdgeHiddenSumEnds::<bf16>::KERNEL.info(),
        EdgeHiddenSumEndsThroughNorm::<f32>::KERNEL.info(),
        EdgeHiddenSumEndsThroughNorm::<bf16>::KERNEL.info(),
        EdgeHiddenSumTypesThroughNorm::<f32>::KERNEL.info(),
        EdgeHiddenSumTypesThroughNorm::<bf16>::KERNEL.info(),
    ],
};

/// The three terms of [`edge_hidden_lookup`], and the rows of them that each edge reads.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a, T> {
    /// `[u, H]` product of the edge states, or of the predicate embeddings.
    pub edge_projected: Slice<'a, T>,
    /// `[n, 2 H]` products of the node states, or of the object embeddings, as subject and as object.
    pub projected: Slice<'a, T>,
    /// `[E] -> u` row of `edge_projected` for each edge.
    pub edge_row: Slice<'a, i32>,
    /// Rows of `projected` for the two ends of each edge.
    pub ends: Ends<'a>,
}

/// `z [E, H] = edge_projected[edge_row] + projected[subject, ..H] + projected[object, H..]`, and its statistics.
pub fn edge_hidden_lookup<T: StoredElement>(
    device: &Device,
    z: &mut SliceMut<'_, T>,
    terms: Terms<'_, T>,
    hidden: usize,
    statistics: Option<BatchStatistics<'_>>,
) -> Result<()> {
    let Terms { edge_projected, projected, edge_row, ends } = terms;
    let edges = ends.edges.bound;
    ends.check();
    check_len("edge_hidden_lookup: z", z.len(), edges * T::stride(hidden));
    check_len("edge_hidden_lookup: edge_row", edge_row.len(), edges);
    if edges == 0 && statistics.is_none() {
        return Ok(());
    }
    let arguments = EdgeHiddenLookup {
        z: z.into(),
        statistics: StatisticsArguments::new(device, statistics, edges, hidden)?,
        edge_projected: edge_projected.into(),
        projected: projected.into(),
        edge_row: edge_row.into(),
        subject: ends.subject.into(),
        object: ends.object.into(),
        edge_count: ends.edges.into(),
        hidden: int(hidden),
        stride: int(T::stride(hidden)),
        ends_stride: int(T::stride(2 * hidden)),
        reserved: 0,
    };
    // At least one block per strip, since the statistics must be written even without rows.
    let blocks = Blocks::new(hidden.div_ceil(LOOKUP_STRIP), edges.div_ceil(CHUNK_ROWS).max(1), 1);
    // SAFETY: lengths were checked, and the sums have room; all that is written is borrowed mutably.
    unsafe { device.launch(&EdgeHiddenLookup::KERNEL, blocks, &arguments) }
}

/// Lengths of the rows u in x = u / length ([`super::linear::linear_forward_unit`]).
pub struct Lengths<'a, T> {
    /// `[n]` length of each row.
    pub lengths: Slice<'a, f32>,
    /// `[n, 2 H]` products P of x.
    pub projected: Slice<'a, T>,
    /// `[n]` multiple of u to subtract from the gradient with respect to u, overwritten.
    pub along: SliceMut<'a, f32>,
}

impl<T: StoredElement> LengthsArguments<T> {
    /// Arguments for sums of `rows` rows, stored in `values` values; null pointers without lengths.
    #[track_caller]
    fn new(lengths: Option<Lengths<'_, T>>, rows: usize, values: usize) -> Self {
        let Some(Lengths { lengths, projected, mut along }) = lengths else { return Self::zeroed() };
        check_len("edge_hidden_sum_ends: lengths", lengths.len(), rows);
        check_len("edge_hidden_sum_ends: projected", projected.len(), values);
        check_len("edge_hidden_sum_ends: along", along.len(), rows);
        LengthsArguments { along: (&mut along).into(), lengths: lengths.into(), projected: projected.into() }
    }
}

/// Writes `sums [n, 2 H]`: the sum of `d_z [E, H]` over the edges with subject n, and over the edges with
/// object n. Entries are `2 edge + role`. With lengths, the sums are divided by them, and `along = sums . P /
/// length`.
pub fn edge_hidden_sum_ends<T: StoredElement>(
    device: &Device,
    sums: &mut SliceMut<'_, T>,
    lengths: Option<Lengths<'_, T>>,
    d_z: &Gradient<'_, T>,
    by_row: Lists<'_>,
    hidden: usize,
) -> Result<()> {
    check_len("edge_hidden_sum_ends: sums", sums.len(), by_row.rows.bound * T::stride(2 * hidden));
    let stride = d_z.check(by_row.entries.len() / 2, hidden);
    by_row.check();
    if by_row.rows.bound == 0 {
        return Ok(());
    }
    let lengths = LengthsArguments::new(lengths, by_row.rows.bound, sums.len());
    let (sums, by_row, blocks) = (sums.into(), by_row.into(), Blocks::rows(by_row.rows.bound));
    let [hidden, stride, ends_stride] = [hidden, stride, T::stride(2 * hidden)].map(int);
    match d_z {
        Gradient::Values(d_z) => {
            let d_z = d_z.values().into();
            let arguments =
                EdgeHiddenSumEnds { sums, lengths, d_z, by_row, hidden, stride, ends_stride, reserved: 0 };
            // SAFETY: lengths were checked; sums and along are borrowed mutably, and nothing else is written.
            unsafe { device.launch(&EdgeHiddenSumEnds::KERNEL, blocks, &arguments) }
        }
        Gradient::ThroughNorm(of) => {
            let arguments = EdgeHiddenSumEndsThroughNorm {
                sums,
                lengths,
                d: of.d.as_slice().into(),
                through: of.into(),
                by_row,
                hidden,
                stride,
                ends_stride,
                reserved: 0,
            };
            // SAFETY: as above.
            unsafe { device.launch(&EdgeHiddenSumEndsThroughNorm::KERNEL, blocks, &arguments) }
        }
    }
}

/// The two sums of layer 0 in one launch, over d_z, which is computed from the gradient `of` `[E, H]`:
/// `edge_sums [u, H]` over the edges of predicate type u, and `end_sums [n, 2 H]` by object type, as in
/// [`edge_hidden_sum_ends`].
pub fn edge_hidden_sum_types<T: StoredElement>(
    device: &Device,
    edge_sums: &mut SliceMut<'_, T>,
    end_sums: &mut SliceMut<'_, T>,
    of: &NormBackward<'_, T>,
    by_predicate: Lists<'_>,
    by_object: Lists<'_>,
) -> Result<()> {
    let (hidden, predicates, objects) = (of.columns(), by_predicate.rows.bound, by_object.rows.bound);
    check_len("edge_hidden_sum_types: edge_sums", edge_sums.len(), predicates * T::stride(hidden));
    check_len("edge_hidden_sum_types: end_sums", end_sums.len(), objects * T::stride(2 * hidden));
    of.check(by_predicate.entries.len());
    of.check(by_object.entries.len() / 2);
    by_predicate.check();
    by_object.check();
    if predicates + objects == 0 {
        return Ok(());
    }
    let arguments = EdgeHiddenSumTypesThroughNorm {
        edge_sums: edge_sums.into(),
        end_sums: end_sums.into(),
        d: of.d.as_slice().into(),
        through: of.into(),
        by_predicate: by_predicate.into(),
        by_object: by_object.into(),
        predicate_blocks: int(predicates),
        hidden: int(hidden),
        stride: int(T::stride(hidden)),
        ends_stride: int(T::stride(2 * hidden)),
    };
    let blocks = Blocks::rows(predicates + objects);
    // SAFETY: lengths were checked; both sums are borrowed mutably, and nothing else is written.
    unsafe { device.launch(&EdgeHiddenSumTypesThroughNorm::KERNEL, blocks, &arguments) }
}
