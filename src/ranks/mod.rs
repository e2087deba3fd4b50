//! The processes that train one model together: their number, and what they exchange (`docs/data_parallel.md`).
//!
//! Every exchange gives all ranks the same bits: values are gathered, and each rank merges or sums them in the order of ranks.
//! With one rank nothing is exchanged, and every function returns its argument.
//!
//! The feature `mpi` brings processes together by MPI. Tests implement [`Exchange`] with threads.

#[cfg(feature = "mpi")]
mod mpi;

use std::fmt;
use std::ops::{AddAssign, Range};
use std::sync::Arc;

use bytemuck::{Pod, cast_slice, cast_slice_mut};

use crate::error::{Error, Result};

/// Values of a sum that are exchanged at a time: bounds the memory, and the length of a message.
const SUM_VALUES: usize = 1 << 22;

/// Exchange of bytes between ranks. All ranks make the same calls in the same order. A call returns when this rank has the
/// result. If another rank ends before, the implementation ends this one.
pub trait Exchange: Send + Sync {
    /// Number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn count(&self) -> usize;

    /// Number of this rank among those on this machine, from 0.
    fn rank_on_machine(&self) -> usize;

    /// Writes `own` of every rank to `all`, in the order of ranks. All ranks pass the same length.
    fn all_gather(&self, own: &[u8], all: &mut [u8]);

    /// Cuts `own` into as many equal parts as there are ranks and sends each rank its part. Writes the parts that this rank
    /// receives to `received`, in the order of ranks.
    fn all_to_all(&self, own: &[u8], received: &mut [u8]);
}

/// The ranks of a training, as one of them sees it. The default is one rank.
#[derive(Clone, Default)]
pub struct Ranks(Option<Arc<dyn Exchange>>);

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.count())
    }
}

/// Rows of one rank, and two values per column over these rows.
struct Part {
    rows: f64,
    columns: Vec<[f64; 2]>,
}

impl Ranks {
    /// The ranks that the launcher of this process has started: those of MPI, or one in a program without the feature `mpi`.
    /// Called once.
    pub fn started() -> Result<Self> {
        #[cfg(feature = "mpi")]
        return mpi::start().map(Ranks::new);
        #[cfg(not(feature = "mpi"))]
        Ok(Ranks::default())
    }

    /// Ranks that exchange by `exchange`.
    pub fn new(exchange: Arc<dyn Exchange>) -> Self {
        Ranks((exchange.count() > 1).then_some(exchange))
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |exchange| exchange.rank())
    }

    /// Number of ranks.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |exchange| exchange.count())
    }

    /// Number of this rank among those on this machine, from 0.
    pub fn rank_on_machine(&self) -> usize {
        self.0.as_ref().map_or(0, |exchange| exchange.rank_on_machine())
    }

    /// Whether there is one rank, so that nothing is exchanged.
    pub fn is_one(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is rank 0, which alone writes files and the log.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Share of this rank of `total` things: consecutive ones, the first ranks one more if the division leaves a rest.
    pub fn share(&self, total: usize) -> Range<usize> {
        let (rank, count) = (self.rank(), self.count());
        let start = |rank: usize| rank * (total / count) + rank.min(total % count);
        start(rank)..start(rank + 1)
    }

    /// `own` of every rank, one after the other. All ranks pass the same length.
    pub fn gather<T: Pod>(&self, own: &[T]) -> Vec<T> {
        let Some(exchange) = &self.0 else { return own.to_vec() };
        let mut all = vec![T::zeroed(); exchange.count() * own.len()];
        exchange.all_gather(cast_slice(own), cast_slice_mut(&mut all));
        all
    }

    /// `own` of rank 0.
    pub fn of_first<T: Pod>(&self, own: T) -> T {
        self.gather(&[own])[0]
    }

    /// Sum of a number over all ranks.
    pub fn total(&self, own: usize) -> usize {
        if self.is_one() { own } else { self.gather(&[own as u64]).iter().sum::<u64>() as usize }
    }

    /// Whether `own` is true on any rank.
    pub fn any(&self, own: bool) -> bool {
        self.total(own.into()) > 0
    }

    /// Replaces `values` by their sums over all ranks, added in the order of ranks.
    pub fn sum<T: Pod + AddAssign>(&self, values: &mut [T]) {
        let Some(exchange) = &self.0 else { return };
        for values in values.chunks_mut(SUM_VALUES) {
            // Each rank sums one part of the values, and sends the sums to all.
            let part = values.len().div_ceil(exchange.count());
            let mut padded = values.to_vec();
            padded.resize(part * exchange.count(), T::zeroed());
            let mut received = vec![T::zeroed(); padded.len()];
            exchange.all_to_all(cast_slice(&padded), cast_slice_mut(&mut received));
            let (sums, others) = received.split_at_mut(part);
            for other in others.chunks_exact(part) {
                sums.iter_mut().zip(other).for_each(|(sum, &value)| *sum += value);
            }
            exchange.all_gather(cast_slice(sums), cast_slice_mut(&mut padded));
            values.copy_from_slice(&padded[..values.len()]);
        }
    }

    /// Merges the statistics of columns over the rows of all ranks (Chan et al.). `columns` holds mean and sum of squared
    /// deviations over this rank's `rows`, then over all. Returns the number of all rows.
    pub fn merge_statistics(&self, rows: usize, columns: &mut [[f64; 2]]) -> usize {
        if self.is_one() {
            return rows;
        }
        let parts = self.parts(rows, columns);
        let total: f64 = parts.iter().map(|part| part.rows).sum();
        for (c, merged) in columns.iter_mut().enumerate() {
            let of = || parts.iter().map(|part| (part.rows, part.columns[c]));
            let mean = of().map(|(rows, [mean, _])| rows * mean).sum::<f64>() / total.max(1.0);
            let deviation =
                of().map(|(rows, [own, deviation])| deviation + rows * (own - mean) * (own - mean)).sum();
            *merged = [mean, deviation];
        }
        total as usize
    }

    /// Replaces two sums per column over this rank's `rows` by those over the rows of all ranks. Returns the number of all
    /// rows.
    pub fn sum_columns(&self, rows: usize, columns: &mut [[f64; 2]]) -> usize {
        if self.is_one() {
            return rows;
        }
        let parts = self.parts(rows, columns);
        for (c, sums) in columns.iter_mut().enumerate() {
            let over_parts = |i: usize| parts.iter().map(|part| part.columns[c][i]).sum();
            *sums = [over_parts(0), over_parts(1)];
        }
        parts.iter().map(|part| part.rows as usize).sum()
    }

    /// Rows and columns of every rank.
    fn parts(&self, rows: usize, columns: &[[f64; 2]]) -> Vec<Part> {
        let mut own = vec![rows as f64];
        own.extend_from_slice(columns.as_flattened());
        let all = self.gather(&own);
        let part = |part: &[f64]| Part { rows: part[0], columns: cast_slice(&part[1..]).to_vec() };
        all.chunks_exact(own.len()).map(part).collect()
    }

    /// Checks that all ranks have the same `values`, given with their names. A rank that differs from rank 0 returns an error; the
    /// others then wait to be ended with it, and do nothing more.
    pub fn check_same(&self, values: &[(&str, u64)]) -> Result<()> {
        let own: Vec<u64> = values.iter().map(|&(_, value)| value).collect();
        let all = self.gather(&own);
        let differs = values.iter().zip(&all).find(|((_, own), first)| own != *first);
        let Some(((name, _), _)) = differs else {
            if all.chunks_exact(own.len()).any(|of_rank| of_rank != own) {
                self.gather(&[0u8]); // a rank that differs does not join in
            }
            return Ok(());
        };
        Err(Error::argument(
            format!("rank {} of {}", self.rank(), self.count()),
            format!("has another {name} than rank 0"),
            "start all ranks with the same program, options and files",
        ))
    }
}

/// Ends the program with this exit code. A code other than 0 after an error, `failed`, also ends the other ranks.
pub fn exit(code: i32, failed: bool) -> ! {
    #[cfg(feature = "mpi")]
    mpi::end(code, failed);
    #[cfg(not(feature = "mpi"))]
    let _ = failed; // there are no other ranks
    std::process::exit(code)
}
