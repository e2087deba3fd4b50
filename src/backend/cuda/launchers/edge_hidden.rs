//! edge_hidden: adds up the parts of an edge's first product, and sums its gradient by node or type
//! (`kernels/edge_hidden.cu`).

use bytemuck::Zeroable;
use half::bf16;

use super::batch_norm::{BatchStatistics, CHUNK_ROWS};
use super::lists::{Ends, Lists, ListsArguments};
use super::norm_arguments::StatisticsArguments;
use super::stored::{StoredElement, stored_kernel};
use crate::backend::cuda::device::buffer::{Buffer, Slice, SliceMut};
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

    /// [`TypeSums`] in the kernel's form.
    struct TypeSumsArguments<T> {
        /// `[n, roles hidden]` sums by type, overwritten.
        sums: PointerMut<T>,
        by_type: ListsArguments,
        /// `[chunks, roles, hidden up to a multiple of 4]` sums of the lists' chunks.
        partials: PointerMut<f32>,
        /// `[n]` numbers of finished chunks: zeros before and after each launch.
        tickets: PointerMut<i32>,
        /// Stride of rows of `sums`.
        stride: i32,
        reserved: i32,
    }

    struct EdgeHiddenSumTypes<T> {
        by_predicate: TypeSumsArguments<T>,
        by_object: TypeSumsArguments<T>,
        /// `[E, hidden]` gradient with respect to z.
        d_z: Pointer<T>,
        /// Number of blocks for predicates; the blocks for objects follow.
        predicate_blocks: i32,
        hidden: i32,
        stride: i32,
        reserved: i32,
    }
}

/// Threads of a block, and columns of a strip, as in the kernels.
const THREADS: u32 = 128;
const LOOKUP_STRIP: usize = 64;
const LOOKUP_THREADS: u32 = 256;
/// Number of entries in a chunk of a type's list, as in `kernels/lists.cuh`.
pub(crate) const CHUNK_ENTRIES: usize = 64;

impl<T: StoredElement> EdgeHiddenLookup<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_hidden_lookup", T), [LOOKUP_THREADS, 1, 1]);
}

impl<T: StoredElement> EdgeHiddenSumEnds<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_hidden_sum_ends", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> EdgeHiddenSumTypes<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_hidden_sum_types", T), [THREADS, 1, 1]);
}

/// Kernels of `kernels/edge_hidden.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "edge_hidden",
    kernels: &[
        EdgeHiddenLookup::<f32>::KERNEL.info(),
        EdgeHiddenLookup::<bf16>::KERNEL.info(),
        EdgeHiddenSumEnds::<f32>::KERNEL.info(),
        EdgeHiddenSumEnds::<bf16>::KERNEL.info(),
        EdgeHiddenSumTypes::<f32>::KERNEL.info(),
        EdgeHiddenSumTypes::<bf16>::KERNEL.info(),
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
    d_z: Slice<'_, T>,
    by_row: Lists<'_>,
    hidden: usize,
) -> Result<()> {
    check_len("edge_hidden_sum_ends: sums", sums.len(), by_row.rows.bound * T::stride(2 * hidden));
    check_len("edge_hidden_sum_ends: d_z", d_z.len(), by_row.entries.len() / 2 * T::stride(hidden));
    by_row.check();
    if by_row.rows.bound == 0 {
        return Ok(());
    }
    let arguments = EdgeHiddenSumEnds {
        lengths: LengthsArguments::new(lengths, by_row.rows.bound, sums.len()),
        sums: sums.into(),
        d_z: d_z.into(),
        by_row: by_row.into(),
        hidden: int(hidden),
        stride: int(T::stride(hidden)),
        ends_stride: int(T::stride(2 * hidden)),
        reserved: 0,
    };
    let blocks = Blocks::rows(by_row.rows.bound);
    // SAFETY: lengths were checked; sums and along are borrowed mutably, and nothing else is written.
    unsafe { device.launch(&EdgeHiddenSumEnds::KERNEL, blocks, &arguments) }
}

/// Sums of rows by type, and the lists of the rows to add.
pub struct TypeSums<'a, 'b, T> {
    /// `[n, H]` sums by predicate type, or `[n, 2 H]` by object type, overwritten.
    pub sums: &'a mut SliceMut<'b, T>,
    /// Edges of each predicate type, or `2 edge + role` of each object type.
    pub lists: Lists<'a>,
}

/// Largest numbers of types and of entries of their lists.
#[derive(Clone, Copy, Debug)]
pub struct TypeBound {
    /// Number of types in use.
    pub types: usize,
    /// Number of entries.
    pub entries: usize,
}

impl TypeBound {
    /// Bound of the numbers of chunks: each type's list may end with an unused number.
    fn chunks(self) -> usize {
        self.types + self.entries / CHUNK_ENTRIES
    }
}

impl Lists<'_> {
    fn bound(&self) -> TypeBound {
        TypeBound { types: self.rows.bound, entries: self.entries.len() }
    }
}

/// Number of ends of an edge; their sums lie side by side.
const ENDS: usize = 2;

/// Memory of [`edge_hidden_sum_types`] for the sums of chunks.
pub struct ChunkSums {
    partials: Buffer<f32>,
    tickets: Buffer<i32>,
}

impl ChunkSums {
    /// Creates an empty memory.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(ChunkSums { partials: device.allocate(0)?, tickets: device.allocate(0)? })
    }

    /// Grows the memory for sums by predicate type and by object type.
    pub fn reserve(
        &mut self,
        device: &Device,
        predicates: TypeBound,
        objects: TypeBound,
        hidden: usize,
    ) -> Result<()> {
        let each = hidden.next_multiple_of(4);
        device.reserve(&mut self.partials, (predicates.chunks() + ENDS * objects.chunks()) * each)?;
        if self.tickets.len() < predicates.types + objects.types {
            self.tickets = device.allocate(predicates.types + objects.types)?;
        }
        Ok(())
    }
}

/// The two sums of layer 0 in one launch, over `d_z` `[E, H]`: over the edges of each predicate type, and by object type as in [`edge_hidden_sum_ends`].
pub fn edge_hidden_sum_types<T: StoredElement>(
    device: &Device,
    by_predicate: TypeSums<'_, '_, T>,
    by_object: TypeSums<'_, '_, T>,
    (d_z, hidden): (Slice<'_, T>, usize),
    memory: &mut ChunkSums,
) -> Result<()> {
    let (predicates, objects) = (by_predicate.lists.bound(), by_object.lists.bound());
    let [stride, ends_stride] = [hidden, ENDS * hidden].map(T::stride);
    check_len("edge_hidden_sum_types: by_predicate", by_predicate.sums.len(), predicates.types * stride);
    check_len("edge_hidden_sum_types: by_object", by_object.sums.len(), objects.types * ends_stride);
    check_len("edge_hidden_sum_types: d_z", d_z.len(), predicates.entries * stride);
    check_len("edge_hidden_sum_types: d_z", d_z.len(), objects.entries / ENDS * stride);
    by_predicate.lists.check();
    by_object.lists.check();
    if predicates.types + objects.types == 0 {
        return Ok(());
    }
    memory.reserve(device, predicates, objects, hidden)?;
    let ChunkSums { partials, tickets } = memory;
    let (partial_count, ticket_count) = (partials.len(), tickets.len());
    let predicate_partials = predicates.chunks() * hidden.next_multiple_of(4);
    let (mut partials, mut object_partials) =
        partials.slice_mut(0..partial_count).split_at(predicate_partials);
    let (mut tickets, mut object_tickets) = tickets.slice_mut(0..ticket_count).split_at(predicates.types);
    let arguments = EdgeHiddenSumTypes {
        by_predicate: TypeSumsArguments {
            sums: by_predicate.sums.into(),
            by_type: by_predicate.lists.into(),
            partials: (&mut partials).into(),
            tickets: (&mut tickets).into(),
            stride: int(stride),
            reserved: 0,
        },
        by_object: TypeSumsArguments {
            sums: by_object.sums.into(),
            by_type: by_object.lists.into(),
            partials: (&mut object_partials).into(),
            tickets: (&mut object_tickets).into(),
            stride: int(ends_stride),
            reserved: 0,
        },
        d_z: d_z.into(),
        predicate_blocks: int(predicates.chunks()),
        hidden: int(hidden),
        stride: int(stride),
        reserved: 0,
    };
    let blocks = Blocks::rows(predicates.chunks() + objects.chunks());
    // SAFETY: lengths were checked, and the memory has room for all chunks; all that is written is borrowed mutably.
    unsafe { device.launch(&EdgeHiddenSumTypes::KERNEL, blocks, &arguments) }
}
