//! Agreement of the embeddings' inner products with the supervision: do images with similar embeddings have
//! similar captions (paper, Table 2)?
//!
//! Scores <f_X, f_Y> and similarities s_XY are computed in double precision. On a GPU or the emulator, a
//! kernel computes the correlations of the rows. The CPU always computes the correlations over all pairs. It
//! processes 64 rows at a time, each block on one thread, and keeps the part above the diagonal. Without a
//! kernel, the same pass also computes the correlations of the rows while these are in the cache.

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;
use scenerank_matmul::Packed;
use serde::{Deserialize, Serialize};

use super::Embeddings;
use super::kendall::{pair_count, tau_b};
use super::pearson::{pearson, r_of_sums};
use super::rank_correlations::{RankCorrelations, Ranks};
use super::spearman::rho_of_sums;
use crate::backend::Backend;
use crate::backend::correlation_sums::CorrelationSums;
use crate::backend::cpu::inner_products::{ROW_BLOCK, WideRows};
use crate::backend::device::{Arithmetic, BackendTask, Device};
use crate::data::similarity::{Similarity, not_a_number};
use crate::progress::Progress;
use crate::{Error, Result};

/// The three correlations between scores and similarities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Correlations {
    /// Kendall's tau-b.
    pub kendall: f64,
    /// Spearman's rho.
    pub spearman: f64,
    /// Pearson's r.
    pub pearson: f64,
}

/// Number of rows without a correlation, because their scores or their similarities are all equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndefinedRows {
    /// Rows without Kendall's tau-b.
    pub kendall: usize,
    /// Rows without Spearman's rho.
    pub spearman: usize,
    /// Rows without Pearson's r.
    pub pearson: usize,
}

/// Agreement at the two levels of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Number of images compared.
    pub images: usize,
    /// Mean over the images of the correlation of each row, without the image itself; an undefined
    /// correlation counts as 0.
    pub per_image: Correlations,
    /// Correlations over all pairs X < Y; 0 if undefined. For a matrix that is not symmetric, only the
    /// entries s_XY with X < Y count.
    pub all_pairs: Correlations,
    /// Number of rows that count as 0 in `per_image`.
    pub undefined_rows: UndefinedRows,
}

/// Agreement of `embeddings` with `similarity` over `images`, a range of the similarity's images. Row i of
/// the embeddings belongs to image `images.start + i`. A kernel of the device correlates the rows, if it has
/// one; the rest runs on all threads of the CPU.
///
/// The result is exact. Cost for n images: n^2 (width + width of the word vectors) multiply-adds and O(n^2
/// log n) comparisons; the kernel makes n^3 comparisons for the rows. Memory of the CPU: 44 bytes per pair
/// (0.5 GB for 4,537 images, 10 GB for 20,000), plus both factors in double precision, twice, and 48 rows of scores
/// and similarities per thread. Memory of the device: 64 MiB or two rows, and the factors.
pub fn agreement(
    device: Device,
    arithmetic: impl Into<Arithmetic>,
    embeddings: Embeddings<'_>,
    similarity: Similarity<'_>,
    images: Range<usize>,
    progress: Option<Progress>,
) -> Result<Agreement> {
    check(embeddings, similarity, &images)?;
    let progress = Mutex::new(progress);
    let advance = |rows: usize| {
        if let Ok(guard) = progress.lock()
            && let Some(progress) = guard.as_ref()
        {
            progress.advance(rows as u64);
        }
    };
    let task = CorrelateRows { embeddings, similarity, images: images.clone(), done: &advance };
    let by_kernel = device.run(arithmetic, task)?;
    let (by_row, all_pairs) = correlate_on_cpu(embeddings, similarity, images, by_kernel, advance)?;
    let mean = |which: usize| {
        let of_rows: Vec<_> = by_row.iter().map(|row| row[which]).collect();
        mean_of_defined(&of_rows)
    };
    let undefined = |which: usize| by_row.iter().filter(|row| row[which].is_none()).count();
    let [kendall, spearman, pearson] = all_pairs.map(|correlation| correlation.unwrap_or(0.0));
    let result = Agreement {
        images: embeddings.len(),
        per_image: Correlations { kendall: mean(0), spearman: mean(1), pearson: mean(2) },
        all_pairs: Correlations { kendall, spearman, pearson },
        undefined_rows: UndefinedRows {
            kendall: undefined(0),
            spearman: undefined(1),
            pearson: undefined(2),
        },
    };
    if let Ok(Some(progress)) = progress.into_inner() {
        progress.finish();
    }
    Ok(result)
}

/// Correlations of each row and of all pairs, on all threads of the CPU. If the rows are already given, they
/// are returned as they are, and `done` is not called.
fn correlate_on_cpu(
    embeddings: Embeddings<'_>,
    similarity: Similarity<'_>,
    images: Range<usize>,
    by_row: Option<Vec<Defined>>,
    done: impl Fn(usize) + Sync + Send,
) -> Result<(Vec<Defined>, Defined)> {
    /// Outputs of a row: its part above the diagonal, and its correlations.
    struct Row<'a> {
        scores: &'a mut [f64],
        similarities: &'a mut [f64],
        correlations: Defined,
    }

    let n = embeddings.len();
    let pairs = n * n.saturating_sub(1) / 2;
    let (mut scores, mut similarities) = (vec![0.0; pairs], vec![0.0; pairs]);
    let (mut scores_left, mut similarities_left) = (&mut scores[..], &mut similarities[..]);
    let mut rows: Vec<Row> = (0..n)
        .map(|row| Row {
            scores: scores_left.split_off_mut(..n - 1 - row).expect("n (n - 1) / 2 pairs"),
            similarities: similarities_left.split_off_mut(..n - 1 - row).expect("n (n - 1) / 2 pairs"),
            correlations: [None; 3],
        })
        .collect();
    let done = |rows| {
        if by_row.is_none() {
            done(rows);
        }
    };
    let compared = Compared { embeddings, similarity, images };
    compared.for_each_row(&mut rows, Ranks::new, done, |ranks, kept, of| {
        kept.scores.copy_from_slice(&of.scores[of.row..]);
        kept.similarities.copy_from_slice(&of.similarities[of.row..]);
        if by_row.is_none() {
            let (x, y) = (of.scores, of.similarities);
            let RankCorrelations { tau, rho } = ranks.correlate(x, y);
            kept.correlations = [tau, rho, pearson(x, y)];
        }
    })?;
    let by_row = by_row.unwrap_or_else(|| rows.into_iter().map(|row| row.correlations).collect());
    let (RankCorrelations { tau, rho }, pearson) = rayon::join(
        || Ranks::parallel().correlate(&scores, &similarities),
        || pearson(&scores, &similarities),
    );
    Ok((by_row, [tau, rho, pearson]))
}

/// Computes only `agreement(..).per_image.kendall`, which selects the best epoch, without the other
/// correlations and without memory for all pairs. A kernel of the backend, if it has one, reads the
/// embeddings that are already on the device; otherwise all threads of the CPU compute it.
pub fn row_kendall<B: Backend>(
    backend: &mut B,
    embeddings: Embeddings<'_>,
    on_device: &B::Buffer,
    similarity: Similarity<'_>,
    images: Range<usize>,
) -> Result<f64> {
    check(embeddings, similarity, &images)?;
    let by_kernel =
        backend.row_correlations(on_device, embeddings.width(), similarity, images.clone(), &|_| {})?;
    let mut taus = vec![None; embeddings.len()];
    if let Some(rows) = by_kernel {
        taus = rows.iter().map(|row| correlations(row)[0]).collect();
        return Ok(mean_of_defined(&taus));
    }
    let compared = Compared { embeddings, similarity, images };
    compared.for_each_row(
        &mut taus,
        Ranks::new,
        |_| {},
        |ranks, tau, of| {
            *tau = ranks.correlate(of.scores, of.similarities).tau;
        },
    )?;
    Ok(mean_of_defined(&taus))
}

/// Mean; an undefined value counts as 0.
fn mean_of_defined(values: &[Option<f64>]) -> f64 {
    values.iter().map(|value| value.unwrap_or(0.0)).sum::<f64>() / values.len() as f64
}

/// Kendall's tau-b, Spearman's rho and Pearson's r, if they are defined.
type Defined = [Option<f64>; 3];

fn correlations(of: &CorrelationSums) -> Defined {
    let all = pair_count(of.entries);
    let constant = of.tied_x == all || of.tied_y == all;
    [
        tau_b(of.entries, of.concordant_minus_discordant.into(), of.tied_x, of.tied_y),
        rho_of_sums(of.rank_products),
        if constant { None } else { r_of_sums(of.deviation_products) },
    ]
}

/// Correlates the rows with the backend's kernel; returns `None` if it has none.
struct CorrelateRows<'a> {
    embeddings: Embeddings<'a>,
    similarity: Similarity<'a>,
    images: Range<usize>,
    done: &'a dyn Fn(usize),
}

impl BackendTask for CorrelateRows<'_> {
    type Output = Option<Vec<Defined>>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Option<Vec<Defined>>> {
        let CorrelateRows { embeddings, similarity, images, done } = self;
        let (on_device, width) = (embeddings.upload(&mut backend)?, embeddings.width());
        let rows = backend.row_correlations(&on_device, width, similarity, images, done)?;
        Ok(rows.map(|rows| rows.iter().map(correlations).collect()))
    }
}

/// Images with their embeddings and supervision.
struct Compared<'a> {
    embeddings: Embeddings<'a>,
    similarity: Similarity<'a>,
    /// Image of every embedding, as a range of the similarity's images.
    images: Range<usize>,
}

/// An image, compared with every other one.
struct ComparedRow<'a> {
    /// Index of the embedding.
    row: usize,
    /// `[images - 1]` scores, without the image's own; entries `row..` belong to later images.
    scores: &'a [f64],
    /// `[images - 1]` similarities, in the same order.
    similarities: &'a [f64],
}

impl Compared<'_> {
    /// Calls `visit(state, output, row)` for every row, on all threads of the CPU, and `done` with the number
    /// of rows after each block. `outputs` has one entry per row; `state` creates the working memory of one
    /// thread.
    fn for_each_row<T: Send, S>(
        &self,
        outputs: &mut [T],
        state: impl Fn() -> S + Sync + Send,
        done: impl Fn(usize) + Sync + Send,
        visit: impl Fn(&mut S, &mut T, ComparedRow<'_>) + Sync + Send,
    ) -> Result<()> {
        let Compared { embeddings, similarity, images } = self;
        let n = embeddings.len();
        let factors = WideRows::new(embeddings.values(), embeddings.width());
        let all_embeddings = factors.right_side();
        let all_similarities = SimilarityRows::new(*similarity, images.clone());
        outputs.par_chunks_mut(ROW_BLOCK).enumerate().try_for_each_init(
            || (state(), Vec::new(), Vec::new(), Vec::new(), Vec::new()),
            |(state, score_block, similarity_block, scores, similarities), (block, outputs)| {
                factors.times(block, &all_embeddings, score_block);
                all_similarities.block(block, similarity_block);
                for (i, output) in outputs.iter_mut().enumerate() {
                    let row = block * ROW_BLOCK + i;
                    without(&score_block[i * n..][..n], row, scores);
                    without(&similarity_block[i * n..][..n], row, similarities);
                    if let Some(column) = similarities.iter().position(|s| s.is_nan()) {
                        let column = if column < row { column } else { column + 1 };
                        return Err(not_a_number(images.start + row, images.start + column));
                    }
                    visit(state, output, ComparedRow { row, scores, similarities });
                }
                done(outputs.len());
                Ok(())
            },
        )
    }
}

fn check(embeddings: Embeddings<'_>, similarity: Similarity<'_>, images: &Range<usize>) -> Result<()> {
    if images.end > similarity.len() || images.len() != embeddings.len() {
        return Err(Error::argument(
            "embeddings",
            format!(
                "{} rows for images {}..{} of {}",
                embeddings.len(),
                images.start,
                images.end,
                similarity.len()
            ),
            "give one embedding per image, in the order of the data file",
        ));
    }
    if embeddings.len() < 2 {
        return Err(Error::argument(
            "embeddings",
            format!("agreement compares images, and there are {}", embeddings.len()),
            "evaluate at least two images, better some hundreds",
        ));
    }
    Ok(())
}

/// Copies `row` without its `diagonal` entry.
fn without(row: &[f64], diagonal: usize, rest: &mut Vec<f64>) {
    rest.clear();
    rest.extend_from_slice(&row[..diagonal]);
    rest.extend_from_slice(&row[diagonal + 1..]);
}

/// Blocks of s_XY for a range of the images, in double precision, clamped to [0, 1].
enum SimilarityRows<'a> {
    /// Computed from the caption vectors of the range.
    Factored { vectors: WideRows, all_vectors: Packed<f64> },
    /// Read from a stored matrix of all images.
    Stored { similarity: Similarity<'a>, images: Range<usize> },
}

impl<'a> SimilarityRows<'a> {
    fn new(similarity: Similarity<'a>, images: Range<usize>) -> Self {
        match similarity {
            Similarity::Factored { vectors, width } => {
                let vectors = WideRows::new(&vectors[images.start * width..images.end * width], width);
                let all_vectors = vectors.right_side();
                SimilarityRows::Factored { vectors, all_vectors }
            }
            Similarity::MatrixF32 { .. } | Similarity::MatrixF16 { .. } => {
                SimilarityRows::Stored { similarity, images }
            }
        }
    }

    /// Fills `block` with rows `index * ROW_BLOCK ..`.
    fn block(&self, index: usize, block: &mut Vec<f64>) {
        match self {
            SimilarityRows::Factored { vectors, all_vectors } => {
                vectors.times(index, all_vectors, block);
                for s in block.iter_mut() {
                    *s = s.clamp(0.0, 1.0);
                }
            }
            SimilarityRows::Stored { similarity, images } => {
                block.clear();
                let start = images.start + index * ROW_BLOCK;
                for x in start..images.end.min(start + ROW_BLOCK) {
                    block.extend(images.clone().map(|y| f64::from(similarity.get(x, y))));
                }
            }
        }
    }
}
