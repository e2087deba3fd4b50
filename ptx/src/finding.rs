//! Defects that an execution shows, counted by kind and instruction.

use std::collections::BTreeMap;
use std::fmt;

/// A defect at one instruction.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Kind, such as `out of bounds`.
    pub what: &'static str,
    /// Source place and text of the instruction.
    pub place: String,
    /// Number of occurrences.
    pub count: u64,
    /// Block, thread and details of the first occurrence.
    pub first: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = if self.count == 1 { "once" } else { &format!("{} times", self.count) };
        write!(f, "{} at {}, {times}; first in {}", self.what, self.place, self.first)
    }
}

/// Findings of a launch by instruction and kind.
pub type Findings = BTreeMap<(u32, &'static str), Finding>;
