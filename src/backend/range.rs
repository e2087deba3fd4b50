//! Named ranges on a profiler's timeline.

/// A range that has begun (see [`Backend::range`](crate::backend::Backend::range)). It ends when this is
/// dropped, whichever way the enclosing code exits, so ranges nest.
#[must_use = "a range ends when it is dropped"]
pub struct Range {
    end: Option<fn()>,
}

impl Range {
    /// Range that reports to no profiler.
    pub fn none() -> Self {
        Range { end: None }
    }

    /// Range that calls `end` when it ends.
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
