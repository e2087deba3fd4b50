//! Table of launches by kernel and grid.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{LaunchTime, Micros};

/// Launches of one kernel with one grid.
#[derive(Default)]
struct Group<'a> {
    launches: u32,
    micros: Micros,
    /// The launch with the longest chain.
    slowest: Option<&'a LaunchTime>,
    instructions: f64,
    products: f64,
    loaded: f64,
    stored: f64,
    passes: f64,
}

impl Micros {
    /// Adds the times of another launch.
    pub fn add(&mut self, other: Micros) {
        self.optimistic += other.optimistic;
        self.likely += other.likely;
        self.pessimistic += other.pessimistic;
    }

    /// Sum over launches; overlap is not modelled.
    pub fn sum<'a>(launches: impl IntoIterator<Item = &'a LaunchTime>) -> Micros {
        let mut all = Micros::default();
        launches.into_iter().for_each(|launch| all.add(launch.micros));
        all
    }
}

/// Table with the kernels that take longest first. Below each row: what the slowest block waits for.
pub fn table(launches: &[LaunchTime]) -> String {
    let mut groups: BTreeMap<(&str, [u32; 3]), Group<'_>> = BTreeMap::new();
    for launch in launches {
        let group = groups.entry((&launch.kernel, launch.grid)).or_default();
        group.launches += 1;
        group.micros.add(launch.micros);
        group.instructions += launch.instructions;
        group.products += launch.products;
        group.loaded += launch.loaded;
        group.stored += launch.stored;
        group.passes += launch.passes;
        if group.slowest.is_none_or(|slowest| slowest.chain.0 < launch.chain.0) {
            group.slowest = Some(launch);
        }
    }
    let mut rows: Vec<_> = groups.into_iter().collect();
    rows.sort_by(|a, b| b.1.micros.likely.total_cmp(&a.1.micros.likely));
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:44} {:>12} {:>3} {:>7} {:>6} {:>8} {:>8} {:>15} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7}  bound by",
        "kernel",
        "grid",
        "n",
        "per SM",
        "waves",
        "us each",
        "us all",
        "range of all",
        "cycles",
        "kinstr",
        "mma",
        "KB in",
        "KB out",
        "passes"
    );
    for ((name, [x, y, z]), group) in rows {
        let Some(launch) = group.slowest else { continue };
        let n = f64::from(group.launches);
        let Micros { optimistic, likely, pessimistic } = group.micros;
        let bounds: Vec<String> =
            launch.bounds.iter().map(|(what, share)| format!("{what} {:.0} %", 100.0 * share)).collect();
        let _ = writeln!(
            text,
            "{name:44} {:>12} {:3} {:>7} {:6.2} {:8.1} {likely:8.1} {:>15} {:9} {:8.1} {:7.0} {:7.0} {:7.0} {:7.0}  {}",
            format!("{x}x{y}x{z}"),
            group.launches,
            format!("{} {}", launch.resident, &launch.limit[..1]),
            launch.waves,
            likely / n,
            format!("{optimistic:.1} .. {pessimistic:.1}"),
            launch.chain.0,
            group.instructions / n / 1e3,
            group.products / n,
            group.loaded / n / 1e3,
            group.stored / n / 1e3,
            group.passes / n,
            bounds.join(", ")
        );
        let waits = launch.waits.iter().map(|(place, cycles)| {
            let share = 100.0 * f64::from(*cycles) / f64::from(launch.chain.0.max(1));
            format!("{place} {cycles} ({share:.0} %)")
        });
        let waits: Vec<String> = waits.collect();
        let _ = writeln!(
            text,
            "{:8}{} instructions on the chain; waits: {}",
            "",
            launch.chain.1,
            waits.join("; ")
        );
    }
    text
}
