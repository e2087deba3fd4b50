//! An object of a synthetic image.

/// A box with a name, as in Visual Genome.
#[derive(Debug, serde::Serialize)]
pub struct Object {
    pub(super) object_id: u64,
    pub(super) names: Vec<String>,
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) w: u32,
    pub(super) h: u32,
    #[serde(skip)]
    pub(super) category: Option<usize>,
    /// Random numbers for its box: x, y, width, height, each from 0 to 1.
    #[serde(skip)]
    pub(super) draws: [f64; 4],
}
