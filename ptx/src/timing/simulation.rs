//! Simulation of a launch's blocks over the SMs of a GPU. Blocks go to the emptiest SM in order. The blocks of an SM slow
//! down together where they demand more than it has, and all blocks where they demand more than L2 or HBM gives.

use super::{Block, HBM, L2_PORT, Parameters};

/// What bounds a launch: resources of an SM by [`Block::work`], then HBM, L2, and the blocks' own chains.
pub(super) const BOUNDS: [&str; 9] =
    ["issue", "f64", "convert", "tensor", "wavefronts", "L2 port", "HBM", "L2", "chain"];
const L2: usize = 7;
const CHAIN: usize = 8;

/// An SM during the simulation.
#[derive(Clone)]
struct Multiprocessor {
    /// Running blocks, with the share that is left of each.
    running: Vec<(usize, f64)>,
    /// Factor by which the blocks are slowed down, and the resource that does it.
    factor: f64,
    bound: usize,
    /// Bytes per cycle demanded from L2 and HBM.
    demand: [f64; 2],
}

/// Cycles of a launch by one model, and the share of time for which each of [`BOUNDS`] held it back.
pub(super) fn simulate(
    blocks: &[Block],
    resident: u32,
    model: usize,
    p: &Parameters,
) -> (f64, [f64; BOUNDS.len()]) {
    // Per SM and cycle. The f64 unit takes 2 cycles of a sub-partition for a warp, a conversion 8.
    let capacity = [
        p.partitions,
        p.partitions / 2.0,
        p.partitions / 8.0,
        p.partitions / p.mma_interval,
        p.passes,
        p.l2_port,
    ];
    let [l2, hbm] = [p.l2_tbs, p.hbm_tbs].map(|tbs| tbs * 1e3 / p.ghz);
    let idle = Multiprocessor { running: Vec::new(), factor: 1.0, bound: CHAIN, demand: [0.0; 2] };
    let mut sms = vec![idle; p.sms as usize];
    let length = |block: usize| f64::from(blocks[block].end[model]);
    let mut held = [0.0; BOUNDS.len()];
    let (mut next, mut now) = (0, 0.0);
    let mut changed: Vec<usize> = Vec::new();
    loop {
        while next < blocks.len() {
            let at = (0..sms.len()).min_by_key(|&sm| sms[sm].running.len()).expect("an SM");
            if sms[at].running.len() >= resident as usize {
                break;
            }
            sms[at].running.push((next, 1.0));
            changed.push(at);
            next += 1;
        }
        changed.sort_unstable();
        changed.dedup();
        for sm in changed.drain(..) {
            sms[sm].slow_down(blocks, model, &capacity);
        }
        let demanded = |of: usize| sms.iter().map(|sm| sm.demand[of]).sum::<f64>();
        let share = |limit: f64, demanded: f64| if demanded > limit { limit / demanded } else { 1.0 };
        let (by_l2, by_hbm) = (share(l2, demanded(0)), share(hbm, demanded(1)));
        let global = by_l2.min(by_hbm);
        let (mut step, mut active) = (f64::INFINITY, 0.0);
        for sm in &sms {
            for (block, left) in &sm.running {
                step = step.min(left * length(*block) / (sm.factor * global));
            }
            active += f64::from(u8::from(!sm.running.is_empty()));
        }
        if active == 0.0 {
            return (now, held.map(|time| time / now.max(1.0)));
        }
        now += step;
        for (index, sm) in sms.iter_mut().enumerate().filter(|(_, sm)| !sm.running.is_empty()) {
            let bound = match (global < 1.0, by_hbm < by_l2) {
                (true, true) => HBM,
                (true, false) => L2,
                (false, _) => sm.bound,
            };
            held[bound] += step / active;
            let rate = sm.factor * global * step;
            let before = sm.running.len();
            sm.running.retain_mut(|(block, left)| {
                *left -= rate / length(*block);
                *left > 1e-9
            });
            if sm.running.len() != before {
                changed.push(index);
            }
        }
    }
}

impl Multiprocessor {
    /// Compares what its blocks demand with what it has.
    fn slow_down(&mut self, blocks: &[Block], model: usize, capacity: &[f64]) {
        let mut wanted = [0.0f64; 7];
        for (block, _) in &self.running {
            let block = &blocks[*block];
            for (wanted, work) in wanted.iter_mut().zip(block.work) {
                *wanted += f64::from(work) / f64::from(block.end[model]);
            }
        }
        (self.factor, self.bound) = (1.0, CHAIN);
        for (resource, (wanted, capacity)) in wanted.iter().zip(capacity).enumerate() {
            if wanted > capacity && capacity / wanted < self.factor {
                (self.factor, self.bound) = (capacity / wanted, resource);
            }
        }
        self.demand = [wanted[L2_PORT] * self.factor, wanted[HBM] * self.factor];
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DOUBLES, ISSUES, PASSES, PRODUCTS, SCHEDULED};
    use super::*;

    fn cycles(blocks: usize, end: u32, work: [f32; 7]) -> f64 {
        let block = Block { end: [end; 4], work, ..Block::default() };
        simulate(&vec![block; blocks], 4, SCHEDULED, &Parameters::default()).0.round()
    }

    #[test]
    fn launches_are_bound_by_chains_waves_and_rates() {
        let work = |at: usize, value: f32| {
            let mut work = [0.0; 7];
            work[at] = value;
            work
        };
        assert_eq!(cycles(1, 1000, [0.0; 7]), 1000.0);
        assert_eq!(cycles(132 * 4, 1000, [0.0; 7]), 1000.0);
        assert_eq!(cycles(132 * 4 + 1, 1000, [0.0; 7]), 2000.0);
        // Per SM and cycle: 4 machine instructions, 4 tensor instructions in 6.5 cycles, 1 pass, 2 f64 instructions.
        assert_eq!(cycles(132, 1000, work(ISSUES, 8000.0)), 2000.0);
        assert_eq!(cycles(132 * 4, 1000, work(ISSUES, 2000.0)), 2000.0);
        assert_eq!(cycles(132, 1000, work(PRODUCTS, 1000.0)), 1625.0);
        assert_eq!(cycles(132, 1000, work(PASSES, 3000.0)), 3000.0);
        assert_eq!(cycles(132, 1000, work(DOUBLES, 8000.0)), 4000.0);
        // 5.5 TB/s at 1.8 GHz are 3056 bytes a cycle, 23.1 for each of 132 SMs. One SM alone may have 64.
        assert_eq!(cycles(132, 1000, work(L2_PORT, 46_296.0)), 2000.0);
        assert_eq!(cycles(1, 1000, work(L2_PORT, 46_296.0)), 1000.0);
    }
}
