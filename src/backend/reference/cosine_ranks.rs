//! cosine_ranks: at which rank each query finds its own image, ties against the query.

/// The rank, from 1, of row `truth[q]` of `index [n, width]` for each row of `queries [Q, width]`: the rows whose inner
/// product with the query is not less than its own.
pub fn cosine_ranks(queries: &[f64], index: &[f64], width: usize, truth: &[u32]) -> Vec<u32> {
    let score = |query: &[f64], row: &[f64]| query.iter().zip(row).map(|(x, y)| x * y).sum::<f64>();
    queries
        .chunks_exact(width)
        .zip(truth)
        .map(|(query, &truth)| {
            let own = score(query, &index[truth as usize * width..][..width]);
            // What is no number counts against the query.
            let before = index.chunks_exact(width).filter(|row| {
                let score = score(query, row);
                score >= own || score.is_nan() || own.is_nan()
            });
            before.count() as u32
        })
        .collect()
}
