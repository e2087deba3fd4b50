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

/// Columns of a line at most.
const WIDTH: usize = 120;
/// Indentation of the lines below a row.
const INDENT: usize = 8;

/// Table with the kernels that take longest first. Below each row: what bounds the launch, its work, and what the slowest
/// block waits for.
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
        "{:44} {:>14} {:>3} {:>7} {:>6} {:>8} {:>8} {:>17}",
        "kernel", "grid", "n", "per SM", "waves", "us each", "us all", "range of all",
    );
    for ((name, [x, y, z]), group) in rows {
        let Some(launch) = group.slowest else { continue };
        let n = f64::from(group.launches);
        let Micros { optimistic, likely, pessimistic } = group.micros;
        let _ = writeln!(
            text,
            "{name:44} {:>14} {:3} {:>7} {:6.2} {:8.1} {likely:8.1} {:>17}",
            format!("{x}x{y}x{z}"),
            group.launches,
            format!("{} {}", launch.resident, &launch.limit[..1]),
            launch.waves,
            likely / n,
            format!("{optimistic:.1} .. {pessimistic:.1}"),
        );
        let bounds =
            launch.bounds.iter().map(|(what, share)| format!("bound by {what} {:.0} %", 100.0 * share));
        let work = [
            format!("{:.1} kinstr", group.instructions / n / 1e3),
            format!("{:.0} mma", group.products / n),
            format!("{:.0} KB in, {:.0} KB out", group.loaded / n / 1e3, group.stored / n / 1e3),
            format!("{:.0} passes", group.passes / n),
        ];
        write_wrapped(&mut text, bounds.chain(work));
        let chain = format!("chain of {} cycles, {} instructions", launch.chain.0, launch.chain.1);
        let waits = launch.waits.iter().map(|(place, cycles)| {
            let share = 100.0 * f64::from(*cycles) / f64::from(launch.chain.0.max(1));
            format!("waits at {place} {cycles} ({share:.0} %)")
        });
        write_wrapped(&mut text, std::iter::once(chain).chain(waits));
    }
    text
}

/// Writes an indented line with these parts, or several if they do not fit.
fn write_wrapped(text: &mut String, parts: impl Iterator<Item = String>) {
    let mut column = 0;
    for part in parts {
        let width = part.chars().count();
        if column > 0 && column + 2 + width <= WIDTH {
            text.push_str("; ");
            column += 2 + width;
        } else {
            if column > 0 {
                text.push('\n');
            }
            let _ = write!(text, "{:INDENT$}", "");
            column = INDENT + width;
        }
        text.push_str(&part);
    }
    if column > 0 {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit() {
        let place = |line: u32| format!("matmul_tensor.cuh:{line} ldmatrix.sync.aligned.m8n8.x4.shared.b16");
        let launch = LaunchTime {
            kernel: "linear_forward_gather_norm_bf16x3_128".into(),
            grid: [65_535, 1_024, 1],
            micros: Micros { optimistic: 123_456.7, likely: 123_456.7, pessimistic: 123_456.7 },
            resident: 16,
            limit: "registers",
            waves: 123.45,
            bounds: vec![("chain", 0.5), ("L2 port", 0.3), ("HBM", 0.2)],
            chain: (1_234_567, 123_456),
            waits: vec![(place(123), 123_456), (place(456), 12_345), (place(789), 1_234)],
            instructions: 123_456_789.0,
            products: 123_456.0,
            loaded: 123_456_789.0,
            stored: 123_456_789.0,
            passes: 123_456_789.0,
        };
        let text = table(&[launch.clone(), launch]);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(
            text.contains("waits at matmul_tensor.cuh:789") && text.contains("bound by HBM 20 %"),
            "{text}"
        );
        assert_eq!(text.lines().filter(|line| line.starts_with("linear_forward")).count(), 1, "{text}");
    }
}
