//! Comparison with an earlier report: which entries are faster, which are slower, and which the spread leaves undecided.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::kernels::Kernels;
use crate::bench::MODELLED;
use crate::bench::entry::Entry;
use crate::error::{Error, Result};
use crate::report::table::plain_table;
use crate::terminal::{duration, shorten, wrap};

/// Relative difference of modelled times, which have no spread, from which it counts.
const LEAST_CHANGE: f64 = 0.01;
/// Columns of a shape in the table.
const SHAPE_WIDTH: usize = 50;

/// What is read of an earlier report.
#[derive(Debug, Deserialize)]
pub struct Baseline {
    #[serde(flatten)]
    conditions: Conditions,
    build: OldBuild,
    kernels: Vec<OldEntry>,
}

/// What two reports must have in common, as it stands in their JSON.
#[derive(Debug, Deserialize)]
pub struct Conditions {
    device_name: Value,
    timing: Value,
    precision: Value,
    /// Reports of older versions have none; their products are by mma.sync.
    #[serde(default)]
    family: Kernels,
    model: Value,
    grids: Value,
}

#[derive(Debug, Deserialize)]
struct OldBuild {
    commit: String,
}

#[derive(Debug, Deserialize)]
struct OldEntry {
    name: String,
    batch_size: usize,
    shape: String,
    ms: Option<f64>,
    ms_low: Option<f64>,
    ms_high: Option<f64>,
}

/// Difference between two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The new 95th percentile lies below the old 5th percentile.
    Faster,
    /// The new 5th percentile lies above the old 95th percentile.
    Slower,
    /// The spreads overlap.
    Undecided,
}

/// An entry of both reports.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Name of the launcher, or `step`.
    pub name: String,
    /// Number of triples.
    pub batch_size: usize,
    /// Sizes.
    pub shape: String,
    /// Median in milliseconds before.
    pub before_ms: f64,
    /// Median in milliseconds now.
    pub now_ms: f64,
    /// Whether the difference exceeds the spread.
    pub verdict: Verdict,
}

/// Entries of a report beside those of an earlier one.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Commit of the earlier report.
    pub commit: String,
    /// Entries that both have, timed in both.
    pub changes: Vec<Change>,
    /// Number of entries that only one of them has.
    pub unmatched: usize,
}

impl Baseline {
    /// Reads a report that `bench --json` or `--out` wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::argument(
                "--baseline",
                format!("{}: {error}", path.display()),
                "give a file that bench --out wrote, with this version or a later one",
            )
        })
    }

    /// Refuses times that were measured under other conditions, which say nothing about a change of the program.
    pub fn check(&self, now: &Conditions) -> Result<()> {
        let before = &self.conditions;
        let by_wgmma = |of: &Conditions| Value::from(of.family == Kernels::Wgmma);
        let pairs = [
            ("device", &before.device_name, &now.device_name),
            ("timing", &before.timing, &now.timing),
            ("precision", &before.precision, &now.precision),
            ("products by wgmma", &by_wgmma(before), &by_wgmma(now)),
            ("grids", &before.grids, &now.grids),
            ("network", &before.model, &now.model),
        ];
        match pairs.into_iter().find(|(_, before, now)| before != now) {
            None => Ok(()),
            Some((what, before, now)) => Err(Error::argument(
                "--baseline",
                format!("{what}: {} before, {} now", word(before), word(now)),
                "compare runs on the same device with the same options",
            )),
        }
    }

    /// Compares entries with those of the earlier report.
    pub fn compare(&self, entries: &[Entry]) -> Comparison {
        let modelled = self.conditions.timing == MODELLED;
        let mut changes = Vec::new();
        for entry in entries {
            let same = |old: &&OldEntry| {
                (&*old.name, old.batch_size, &*old.shape) == (&*entry.name, entry.batch_size, &*entry.shape)
            };
            let old = self.kernels.iter().find(same);
            changes.extend(old.and_then(|old| change(old, entry, modelled)));
        }
        let unmatched = self.kernels.len() + entries.len() - 2 * changes.len();
        Comparison { commit: self.build.commit.clone(), changes, unmatched }
    }
}

/// A value in words.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// The change of an entry; `None` if one of them was not timed.
fn change(old: &OldEntry, entry: &Entry, modelled: bool) -> Option<Change> {
    let (before_ms, now_ms) = (old.ms?, entry.times.ms?);
    let [before, now] = match modelled {
        true => [before_ms, now_ms].map(|ms| (ms, ms * (1.0 + LEAST_CHANGE))),
        false => [(old.ms_low?, old.ms_high?), (entry.times.ms_low?, entry.times.ms_high?)],
    };
    let verdict = match () {
        () if now.1 < before.0 => Verdict::Faster,
        () if now.0 > before.1 => Verdict::Slower,
        () => Verdict::Undecided,
    };
    let (name, batch_size, shape) = (entry.name.clone(), entry.batch_size, entry.shape.clone());
    Some(Change { name, batch_size, shape, before_ms, now_ms, verdict })
}

impl Comparison {
    /// Whether an entry is slower.
    pub fn is_slower(&self) -> bool {
        self.changes.iter().any(|change| change.verdict == Verdict::Slower)
    }

    /// Table of the entries that changed, and the number of all others.
    pub fn text(&self) -> String {
        let mut table = plain_table(["kernel", "B", "before", "now", "times", "", "shape"]);
        let number = |verdict| self.changes.iter().filter(|change| change.verdict == verdict).count();
        let [faster, slower, undecided] = [Verdict::Faster, Verdict::Slower, Verdict::Undecided].map(number);
        for change in self.changes.iter().filter(|change| change.verdict != Verdict::Undecided) {
            let Change { name, batch_size, shape, before_ms, now_ms, verdict } = change;
            let [before, now] = [before_ms, now_ms].map(|ms| duration(ms / 1e3));
            let verdict = if *verdict == Verdict::Faster { "faster" } else { "slower" };
            let times = format!("{:.2}", now_ms / before_ms);
            let shape = shorten(shape, SHAPE_WIDTH);
            table.add_row([name.clone(), batch_size.to_string(), before, now, times, verdict.into(), shape]);
        }
        let counts = format!(
            "against {}: {faster} faster, {slower} slower, {undecided} undecided by the spread, {} without a counterpart",
            self.commit, self.unmatched
        );
        let counts = wrap(&counts, 0, 2);
        if faster + slower == 0 { counts } else { format!("{table}\n{counts}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::timing::Times;

    fn entry(ms: [f64; 3]) -> Entry {
        let [ms_low, ms, ms_high] = ms;
        let times = Times { ms, ms_low, ms_high, samples: 9 };
        Entry {
            name: "adam_step".into(),
            batch_size: 16,
            shape: "[8]".into(),
            ok: true,
            times: times.into(),
            ..Entry::default()
        }
    }

    fn verdict(before: [f64; 3], now: [f64; 3], modelled: bool) -> Verdict {
        let [ms_low, ms, ms_high] = before.map(Some);
        let old =
            OldEntry { name: "adam_step".into(), batch_size: 16, shape: "[8]".into(), ms, ms_low, ms_high };
        change(&old, &entry(now), modelled).expect("both are timed").verdict
    }

    #[test]
    fn spreads_that_overlap_decide_nothing() {
        let before = [9.0, 10.0, 11.0];
        for (now, wanted) in [
            ([7.0, 8.0, 8.9], Verdict::Faster),
            ([7.0, 8.0, 9.1], Verdict::Undecided),
            ([10.9, 12.0, 13.0], Verdict::Undecided),
            ([11.1, 12.0, 13.0], Verdict::Slower),
        ] {
            assert_eq!(verdict(before, now, false), wanted, "{now:?}");
        }
        // The range of a modelled time is not a spread.
        assert_eq!(verdict(before, [9.0, 10.2, 11.0], true), Verdict::Slower);
        assert_eq!(verdict(before, [9.0, 9.8, 11.0], true), Verdict::Faster);
        assert_eq!(verdict(before, [1.0, 10.05, 20.0], true), Verdict::Undecided);
    }
}
