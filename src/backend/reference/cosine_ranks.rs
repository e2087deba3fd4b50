//! cosine_ranks: the rank of each query's own image; ties count against the query.

/// Rank, from 1, of row `truth[q]` of `index [n, width]` for each row of `queries [Q, width]`: the number of
/// rows whose inner product with the query is at least that of the true row.
pub fn cosine_ranks(queries: &[f64], index: &[f64], width: usize, truth: &[u32]) -> Vec<u32> {
    let score = |query: &[f64], row: &[f64]| query.iter().zip(row).map(|(x, y)| x * y).sum::<f64>();
    queries
        .chunks_exact(width)
        .zip(truth)
        .map(|(query, &truth)| {
            let own = score(query, &index[truth as usize * width..][..width]);
            // NaN counts against the query.
            let before = index.chunks_exact(width).filter(|row| {
                let score = score(query, row);
                score >= own || score.is_nan() || own.is_nan()
            });
            before.count() as u32
        })
        .collect()
}
