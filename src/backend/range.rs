//! Named ranges on a profiler's timeline.

/// A range that has begun (see [`Backend::range`](crate::backend::Backend::range)); it ends when this is dropped, however
/// the code in between ends, so that ranges nest.
#[must_use = "a range ends when it is dropped"]
pub struct Range {
    end: Option<fn()>,
}

impl Range {
    /// Of a backend that tells no profiler.
    pub fn none() -> Self {
        Range { end: None }
    }

    /// A range that `end` ends.
    pub fn ended_by(end: fn()) -> Self {
        Range { end: Some(end) }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            end();
        }
    }
}
