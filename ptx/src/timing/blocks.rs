//! Barriers and ends of blocks.

use std::collections::HashMap;

use super::{ORDER, SCHEDULED, Slowest, Times, Timing, WarpTime, later, latest};

impl Timing {
    /// When those who wait for a phase go on, whose last arrival is at this time.
    pub(crate) fn phase_end(&self, arrived: Times) -> Times {
        later(arrived, self.p.mbarrier as u32)
    }

    /// All warps of the block that have not returned are at a barrier; `pc` is its place.
    pub(crate) fn barrier(&mut self, mut warps: Vec<&mut WarpTime>, pc: u32) {
        if warps.is_empty() {
            return;
        }
        let arrivals: Vec<Times> = warps.iter_mut().map(|warp| warp.arrival(warp.memory)).collect();
        let cost = self.p.barrier as u32;
        self.attribute(&warps, &arrivals);
        for waits in &mut self.waits {
            add(waits, &[(pc, cost)]);
        }
        let release = later(arrivals.into_iter().fold([0; 4], latest), cost);
        for warp in &mut warps {
            warp.release(release);
        }
    }

    /// Ends the running block.
    pub(crate) fn end_block(&mut self, mut warps: Vec<&mut WarpTime>) {
        let ends: Vec<Times> = warps.iter_mut().map(|warp| warp.arrival(warp.last)).collect();
        self.attribute(&warps, &ends);
        self.block.end = ends.into_iter().fold([1; 4], latest);
        let (waits, issued) = (std::mem::take(&mut self.waits), std::mem::take(&mut self.issued));
        if self.block.end[SCHEDULED] > self.slowest.end[SCHEDULED] {
            self.slowest = Slowest { end: self.block.end, issued, waits };
        }
        self.l1.clear();
        self.blocks.push(std::mem::take(&mut self.block));
    }

    /// Attributes the stretch that has ended to its last warp.
    fn attribute(&mut self, warps: &[&mut WarpTime], ends: &[Times]) {
        let last = |model: usize| (0..ends.len()).max_by_key(|&i| ends[i][model]).expect("a warp");
        add(&mut self.waits[0], &warps[last(SCHEDULED)].waits);
        add(&mut self.waits[1], &warps[last(ORDER)].stalls);
        self.issued += warps[last(SCHEDULED)].slots;
    }

    /// Cycles of the ended blocks by model.
    pub fn ends(&self) -> Vec<[u32; 4]> {
        self.blocks.iter().map(|block| block.end).collect()
    }
}

fn add(into: &mut HashMap<u32, u32>, waits: &[(u32, u32)]) {
    for (pc, cycles) in waits {
        *into.entry(*pc).or_default() += cycles;
    }
}
