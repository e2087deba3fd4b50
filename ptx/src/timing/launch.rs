//! Modelled time of a launch.

use std::collections::HashMap;

use super::simulation::{BOUNDS, simulate};
use super::{ORDER, PASSES, PRODUCTS, SCHEDULED, Timing, WINDOW};
use crate::kernel::Kernel;
use crate::machine::Launch;

/// Modelled microseconds, with the hand-over from the launch before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Micros {
    /// No load passes an undecided branch; everything else is reordered freely.
    pub optimistic: f64,
    /// Basic blocks are scheduled freely.
    pub likely: f64,
    /// As the PTX stands.
    pub pessimistic: f64,
}

/// A launch: its modelled time and what it consists of.
#[derive(Clone, Debug)]
pub struct LaunchTime {
    /// Name of the kernel.
    pub kernel: String,
    /// Blocks by dimension.
    pub grid: [u32; 3],
    /// Time.
    pub micros: Micros,
    /// Blocks that fit on an SM.
    pub resident: u32,
    /// What limits them: registers, shared, warps or blocks.
    pub limit: &'static str,
    /// Waves of blocks over all SMs.
    pub waves: f64,
    /// Shares of the likely time for which a resource held the launch back.
    pub bounds: Vec<(&'static str, f64)>,
    /// Likely cycles of the slowest block, and machine instructions on its longest chain.
    pub chain: (u32, u32),
    /// Source places that the slowest block waits for, with cycles; the longest first.
    pub waits: Vec<(String, u32)>,
    /// PTX instructions by warp.
    pub instructions: f64,
    /// Matrix instructions.
    pub products: f64,
    /// Bytes read from L2.
    pub loaded: f64,
    /// Bytes written to L2.
    pub stored: f64,
    /// Passes through shared memory and L1.
    pub passes: f64,
}

/// Source places named per launch.
const PLACES: usize = 3;

impl Timing {
    /// Simulates the launch after all its blocks have run.
    pub(crate) fn finish_launch(self, launch: &Launch<'_>) -> LaunchTime {
        let p = &self.p;
        let simulated =
            [WINDOW, SCHEDULED, ORDER].map(|model| simulate(&self.blocks, self.resident, model, p));
        let [optimistic, likely, pessimistic] =
            simulated.map(|(cycles, _)| cycles / (p.ghz * 1e3) + p.handover_us);
        let mut bounds: Vec<(&str, f64)> = BOUNDS.into_iter().zip(simulated[1].1).collect();
        bounds.retain(|(_, share)| *share > 0.1);
        bounds.sort_by(|a, b| b.1.total_cmp(&a.1));
        let sum = |of: fn(&super::Block) -> f64| self.blocks.iter().map(of).sum();
        LaunchTime {
            kernel: launch.kernel.name.clone(),
            grid: launch.grid,
            micros: Micros { optimistic, likely, pessimistic },
            resident: self.resident,
            limit: self.limit,
            waves: self.blocks.len() as f64 / (p.sms * f64::from(self.resident)),
            bounds,
            chain: (self.slowest.end[SCHEDULED], self.slowest.issued),
            waits: longest(launch.kernel, &self.slowest.waits[0]),
            instructions: sum(|block| f64::from(block.instructions)),
            products: sum(|block| f64::from(block.work[PRODUCTS])),
            loaded: sum(|block| f64::from(block.loaded)),
            stored: sum(|block| f64::from(block.stored)),
            passes: sum(|block| f64::from(block.work[PASSES])),
        }
    }
}

/// The source places with the longest waits.
fn longest(kernel: &Kernel, waits: &HashMap<u32, u32>) -> Vec<(String, u32)> {
    let mut lines: HashMap<String, u32> = HashMap::new();
    for (&pc, cycles) in waits {
        let line = match (pc as usize) < kernel.code.len() {
            true => format!("{} {}", kernel.place(pc), kernel.opcode(pc as usize)),
            false => "start".to_string(),
        };
        *lines.entry(line).or_default() += cycles;
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    lines.truncate(PLACES);
    lines
}
