//! Supervision: the similarity s_XY in [0, 1] of any two images (paper, "Weak Supervision from the Text
//! Modality").
//!
//! With caption vectors m (docs/model.md, "Supervision"), an entry is the clamped inner product <m_X, m_Y>. The
//! matrix has the rank of the word vectors and is never stored. A user-supplied matrix is read entry by entry
//! from a memory-mapped `.npy` file; it need not be symmetric.

use half::f16;

use crate::Error;

/// Pairwise similarities of the images of a dataset, by image index.
#[derive(Clone, Copy, Debug)]
pub enum Similarity<'a> {
    /// `s_XY = clamp(<m_X, m_Y>, 0, 1)`.
    Factored {
        /// `[images, width]` caption vectors.
        vectors: &'a [f32],
        /// Number of values per image.
        width: usize,
    },
    /// `s_XY = clamp(matrix[X, Y], 0, 1)`, in single precision.
    MatrixF32 {
        /// `[images, images]` matrix whose row X holds s_X.
        values: &'a [f32],
        /// Number of images.
        images: usize,
    },
    /// The same, in half precision.
    MatrixF16 {
        /// `[images, images]` matrix whose row X holds s_X.
        values: &'a [f16],
        /// Number of images.
        images: usize,
    },
}

impl Similarity<'_> {
    /// Number of images.
    pub fn len(&self) -> usize {
        match *self {
            Similarity::Factored { vectors, width } => vectors.len() / width,
            Similarity::MatrixF32 { images, .. } | Similarity::MatrixF16 { images, .. } => images,
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// s_XY, clamped to [0, 1]. Cost: one dot product of the word vectors' width, or one read.
    pub fn get(&self, x: usize, y: usize) -> f32 {
        let s = match *self {
            Similarity::Factored { vectors, width } => {
                dot(&vectors[x * width..][..width], &vectors[y * width..][..width])
            }
            Similarity::MatrixF32 { values, images } => values[x * images + y],
            Similarity::MatrixF16 { values, images } => values[x * images + y].to_f32(),
        };
        s.clamp(0.0, 1.0)
    }
}

/// Inner product with eight partial sums, which vectorises and fixes the order of summation.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Error: the similarity of two images is NaN.
pub fn not_a_number(x: usize, y: usize) -> Error {
    Error::argument(
        "similarity",
        format!("s of images {x} and {y} is NaN"),
        "every similarity must be a number; check the file it comes from",
    )
}
