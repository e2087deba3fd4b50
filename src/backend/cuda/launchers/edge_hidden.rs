//! edge_hidden: joins the parts of an edge's first product, and sums its gradient by node or type
//! (`kernels/edge_hidden.cu`).

use super::batch_norm::{BatchStatistics, CHUNK_ROWS, NormBackward};
use super::linear::Gradient;
use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Arguments, Device, Grid, check_len, dimension};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = stored_kernels![
    "edge_hidden_lookup",
    "edge_hidden_sum_ends",
    "edge_hidden_sum_ends_through_norm",
    "edge_hidden_sum_types_through_norm"
];

/// As in the kernels.
const THREADS: u32 = 128;
const LOOKUP_STRIP: usize = 64;
const LOOKUP_THREADS: u32 = 256;

/// The rows of `projected [n, 2 H]` that an edge reads: nodes, or types that occur.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// E.
    pub edges: Rows<'a>,
    /// `[E] -> n`.
    pub subject: Slice<'a, i32>,
    /// `[E] -> n`.
    pub object: Slice<'a, i32>,
}

/// Lists of edges (or of edges with roles) by row, compressed: the batch's own, so that indices lie in range.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// n.
    pub rows: Rows<'a>,
    /// `[n + 1] -> entry`.
    pub offsets: Slice<'a, i32>,
    /// The entries.
    pub entries: Slice<'a, i32>,
}

impl Ends<'_> {
    #[track_caller]
    pub(crate) fn check(&self) {
        check_len("subject", self.subject.len(), self.edges.bound);
        check_len("object", self.object.len(), self.edges.bound);
    }
}

impl Lists<'_> {
    #[track_caller]
    pub(crate) fn check(&self) {
        check_len("offsets", self.offsets.len(), self.rows.bound + 1);
    }
}

/// `z [E, H] = edge_projected[edge_row] + projected[subject, ..H] + projected[object, H..]`, and its statistics.
pub fn edge_hidden_lookup<T: StoredElement>(
    device: &Device,
    z: &mut SliceMut<'_, T>,
    edge_projected: Slice<'_, T>,
    projected: Slice<'_, T>,
    edge_row: Slice<'_, i32>,
    ends: Ends<'_>,
    hidden: usize,
    statistics: Option<BatchStatistics<'_>>,
) -> Result<()> {
    let edges = ends.edges.bound;
    ends.check();
    check_len("edge_hidden_lookup: z", z.len(), edges * T::stride(hidden));
    check_len("edge_hidden_lookup: edge_row", edge_row.len(), edges);
    if edges == 0 && statistics.is_none() {
        return Ok(());
    }
    let arguments = Arguments::default().add(z).add_statistics(device, statistics, edges, hidden)?;
    let arguments = arguments.add(edge_projected).add(projected).add(edge_row);
    let arguments = arguments.add(ends.subject).add(ends.object).add(ends.edges);
    let arguments = arguments.add(hidden).add(T::stride(hidden)).add(T::stride(2 * hidden));
    // At least one block for each strip, for the statistics that there are without rows.
    let blocks = [hidden.div_ceil(LOOKUP_STRIP), edges.div_ceil(CHUNK_ROWS).max(1), 1].map(dimension);
    let grid = Grid { blocks, threads: [LOOKUP_THREADS, 1, 1] };
    // SAFETY: as in kernels/edge_hidden.cu; lengths were checked, the sums have room; all that is written is borrowed
    // mutably.
    unsafe { device.launch_positional(stored_kernel!("edge_hidden_lookup", T), grid, &arguments) }
}

/// Of an x that has its rows over their lengths ([`super::linear::linear_forward_unit`]).
pub struct Lengths<'a, T> {
    /// `[n]`.
    pub lengths: Slice<'a, f32>,
    /// `[n, 2 H]`: P, the products of x.
    pub projected: Slice<'a, T>,
    /// `[n]`, written: what the gradient by x's numerator has less of that numerator.
    pub along: SliceMut<'a, f32>,
}

/// `sums [n, 2 H]`: of `d_z [E, H]` over the edges with subject n, and over those with object n; entries are
/// `2 edge + role`. With lengths `sums` are over them, and `along = sums . P / length`.
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
    let sums_len = sums.len();
    let arguments = Arguments::default().add(sums);
    let arguments = match lengths {
        Some(Lengths { lengths, projected, mut along }) => {
            check_len("edge_hidden_sum_ends: lengths", lengths.len(), by_row.rows.bound);
            check_len("edge_hidden_sum_ends: projected", projected.len(), sums_len);
            check_len("edge_hidden_sum_ends: along", along.len(), by_row.rows.bound);
            arguments.add(&mut along).add(lengths).add(projected)
        }
        None => arguments.add_nulls(3),
    };
    let arguments = arguments.add_gradient(d_z).add(by_row.offsets).add(by_row.entries);
    let arguments = arguments.add(by_row.rows).add(hidden).add(stride).add(T::stride(2 * hidden));
    let kernel = match d_z {
        Gradient::Values(_) => stored_kernel!("edge_hidden_sum_ends", T),
        Gradient::ThroughNorm(_) => stored_kernel!("edge_hidden_sum_ends_through_norm", T),
    };
    // SAFETY: as in kernels/edge_hidden.cu; lengths were checked; sums and along are borrowed mutably.
    unsafe { device.launch_positional(kernel, Grid::rows(by_row.rows.bound, THREADS), &arguments) }
}

/// Layer 0's two sums in one launch, of d_z, which is made `of` a gradient `[E, H]`: `edge_sums [u, H]` over the edges of
/// predicate type u, and `end_sums [n, 2 H]` as [`edge_hidden_sum_ends`] by object type.
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
    let arguments = Arguments::default().add(edge_sums).add(end_sums).add_norm_backward(of);
    let add_lists = |arguments: Arguments, lists: Lists<'_>| {
        arguments.add(lists.offsets).add(lists.entries).add(lists.rows)
    };
    let arguments = add_lists(add_lists(arguments, by_predicate), by_object).add(predicates);
    let arguments = arguments.add(hidden).add(T::stride(hidden)).add(T::stride(2 * hidden));
    let kernel = stored_kernel!("edge_hidden_sum_types_through_norm", T);
    // SAFETY: as in kernels/edge_hidden.cu; lengths were checked; both sums are borrowed mutably.
    unsafe { device.launch_positional(kernel, Grid::rows(predicates + objects, THREADS), &arguments) }
}
