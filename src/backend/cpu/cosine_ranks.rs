//! cosine_ranks: the rank of each query's own image; ties count against the query.
//!
//! A block of queries at a time is compared with all rows. Products are summed in double precision, all in
//! the same order.

use rayon::prelude::*;

use super::inner_products::{ROW_BLOCK, WideRows};

/// Rank, from 1, of row `truth[q]` of `index [n, width]` for each row of `queries [Q, width]`: the number of
/// rows whose inner product with the query is at least that of the true row. All values are finite.
///
/// Cost: Q x n x width multiply-adds, on all threads; memory: both sides in double precision and 48 rows of scores per
/// thread.
pub fn cosine_ranks(queries: &[f32], index: &[f32], width: usize, truth: &[u32]) -> Vec<u32> {
    let left = WideRows::new(queries, width);
    let right = WideRows::new(index, width).right_side();
    let mut ranks = vec![0u32; truth.len()];
    ranks.par_chunks_mut(ROW_BLOCK).zip(truth.par_chunks(ROW_BLOCK)).enumerate().for_each_init(
        Vec::new,
        |scores, (block, (ranks, truth))| {
            left.times(block, &right, scores);
            for ((rank, &truth), row) in ranks.iter_mut().zip(truth).zip(scores.chunks_exact(right.columns()))
            {
                let own = row[truth as usize];
                *rank = row.iter().filter(|&&score| score >= own).count() as u32;
            }
        },
    );
    ranks
}
