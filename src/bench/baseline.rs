//! Comparison with an earlier report: which entries are faster, which are slower, and which the spread leaves undecided.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::kernels::Kernels;
use crate::bench::MODELLED;
use crate::bench::entry::{Entry, by};
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
    /// Reports of older versions have none.
    #[serde(default)]
    families: Vec<Kernels>,
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
    /// Absent in older versions, whose products are by mma.sync.
    family: Option<Kernels>,
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
    /// Family of the products; `auto` for what does not multiply on tensor cores.
    pub family: Kernels,
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
        // A report of both families has a part in common with one of either.
        let shared = before.families.iter().any(|family| now.families.contains(family));
        let comparable = shared || before.families.is_empty() || now.families.is_empty();
        let families = |of: &Conditions| match comparable {
            true => Value::Null,
            false => of.families.iter().map(Kernels::to_string).collect::<Vec<_>>().join(" and ").into(),
        };
        let pairs = [
            ("device", &before.device_name, &now.device_name),
            ("timing", &before.timing, &now.timing),
            ("precision", &before.precision, &now.precision),
            ("family of products", &families(before), &families(now)),
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
                let same_family = match old.family {
                    Some(family) => family == entry.family,
                    None => entry.family != Kernels::Wgmma,
                };
                let sizes = (&*entry.name, entry.batch_size, &*entry.shape);
                same_family && (&*old.name, old.batch_size, &*old.shape) == sizes
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
    Some(Change { name, batch_size, shape, family: entry.family, before_ms, now_ms, verdict })
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
            let Change { name, batch_size, shape, family, before_ms, now_ms, verdict } = change;
            let [before, now] = [before_ms, now_ms].map(|ms| duration(ms / 1e3));
            let verdict = if *verdict == Verdict::Faster { "faster" } else { "slower" };
            let times = format!("{:.2}", now_ms / before_ms);
            let shape = shorten(shape, SHAPE_WIDTH);
            let name = format!("{name}{}", by(*family));
            table.add_row([name, batch_size.to_string(), before, now, times, verdict.into(), shape]);
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
        let (name, shape) = ("adam_step".into(), "[8]".into());
        let old = OldEntry { name, batch_size: 16, shape, family: None, ms, ms_low, ms_high };
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

    fn report(families: &[&str], entries: &[Option<&str>]) -> Baseline {
        let entry = |family: &Option<&str>| {
            let mut entry = serde_json::json!({
                "name": "linear_forward", "batch_size": 16, "shape": "[8]", "ms": 1.0, "ms_low": 1.0, "ms_high": 1.0,
            });
            if let Some(family) = family {
                entry["family"] = (*family).into();
            }
            entry
        };
        let mut report = serde_json::json!({
            "device_name": "gpu", "timing": "cuda events", "precision": "bf16", "model": "paper", "grids": "exact",
            "build": { "commit": "1" }, "kernels": entries.iter().map(entry).collect::<Vec<_>>(),
        });
        if !families.is_empty() {
            report["families"] = families.into();
        }
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn entries_are_compared_with_those_of_their_family() {
        let of = |family, ms: f64| {
            let name = "linear_forward".into();
            Entry { name, family, ..entry([ms; 3]) }
        };
        let both = [of(Kernels::Mma, 2.0), of(Kernels::Wgmma, 3.0)];
        let compared = |old: &[Option<&str>]| -> Vec<(Kernels, f64)> {
            let comparison = report(&[], old).compare(&both);
            assert_eq!(comparison.unmatched, old.len() + 2 - 2 * comparison.changes.len());
            comparison.changes.iter().map(|change| (change.family, change.now_ms)).collect()
        };
        assert_eq!(compared(&[Some("wgmma")]), [(Kernels::Wgmma, 3.0)]);
        assert_eq!(compared(&[Some("wgmma"), Some("mma")]), [(Kernels::Mma, 2.0), (Kernels::Wgmma, 3.0)]);
        // An older version had mma.sync alone.
        assert_eq!(compared(&[None]), [(Kernels::Mma, 2.0)]);
        let text = report(&[], &[Some("wgmma")]).compare(&both).text();
        assert!(text.contains("linear_forward by wgmma"), "{text}");
    }

    #[test]
    fn reports_without_a_common_family_are_refused() {
        let check = |before: &[&str], now: &[&str]| report(before, &[]).check(&report(now, &[]).conditions);
        for (before, now) in [
            (&["mma", "wgmma"][..], &["mma"][..]),
            (&["wgmma"], &["mma", "wgmma"]),
            (&[], &["wgmma"]),
            (&["mma"], &[]),
        ] {
            assert!(check(before, now).is_ok(), "{before:?} {now:?}");
        }
        let error = check(&["wgmma"], &["mma"]).unwrap_err().to_string();
        assert!(error.contains("family of products: wgmma before, mma now"), "{error}");
    }
}
