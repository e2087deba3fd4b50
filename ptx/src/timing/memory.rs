//! Sectors loaded and stored, and passes through shared memory's banks.

use super::{HBM, L2_PORT, PASSES, Times, Timing, later, latest};

/// Passes through the banks of shared memory for one access of these lanes.
pub fn wavefronts(addresses: &[u32], bytes: u32) -> u32 {
    let lanes_at_once = match bytes {
        16.. => 8,
        8.. => 16,
        _ => 32,
    };
    let mut all = 0;
    for group in addresses.chunks(lanes_at_once) {
        let mut first = [u32::MAX; 32];
        let mut counts = [0u8; 32];
        let mut more: Vec<u32> = Vec::new();
        let mut worst = 0;
        for &address in group {
            for word in address / 4..(address + bytes).div_ceil(4) {
                let bank = word as usize % 32;
                if first[bank] == u32::MAX {
                    first[bank] = word;
                } else if first[bank] == word || more.contains(&word) {
                    continue;
                } else {
                    more.push(word);
                }
                counts[bank] += 1;
                worst = worst.max(counts[bank]);
            }
        }
        all += u32::from(worst);
    }
    all.max(1)
}

/// Distinct sectors of an access.
struct Distinct {
    sectors: [u64; 32],
    count: usize,
}

impl Distinct {
    fn new() -> Self {
        Distinct { sectors: [u64::MAX; 32], count: 0 }
    }

    /// Adds a sector. Returns whether it is new.
    fn add(&mut self, sector: u64) -> bool {
        if self.sectors[..self.count].iter().rev().any(|&other| other == sector) {
            return false;
        }
        self.sectors[self.count] = sector;
        self.count += 1;
        true
    }
}

impl Timing {
    /// Address as a device would have it.
    fn placed(&mut self, address: u64) -> u64 {
        let inside = |&(start, bytes, _): &(u64, u64, u64)| address >= start && address < start + bytes;
        if !self.places.get(self.place).is_some_and(inside) {
            self.place = self.places.iter().position(inside).unwrap_or(usize::MAX);
        }
        self.places.get(self.place).map_or(address, |place| address - place.0 + place.2)
    }

    /// When the data arrives of a load that issues at `at`. Copies to shared memory take no pass here.
    pub(super) fn fetch(&mut self, addresses: &[u64], at: Times, cg: bool, is_copy: bool) -> Times {
        let mut seen = Distinct::new();
        let (mut lines, mut line, mut missed) = (0, u64::MAX, 0);
        let (l1, l2) = (self.p.l1 as u32, self.p.l2 as u32);
        let through_l1 = !cg && l1 > 0;
        let mut done = later(at, l1);
        for &address in addresses {
            let sector = self.placed(address) / 32;
            if !seen.add(sector) {
                continue;
            }
            if sector / 4 != line {
                line = sector / 4;
                lines += 1;
            }
            if through_l1 {
                let arrival =
                    self.l1.get(&sector).copied().or_else(|| self.loaded_by_another_block(sector, at));
                if let Some(arrival) = arrival {
                    done = latest(done, arrival);
                    continue;
                }
            }
            let mut latency = l2;
            if self.p.cold != 0.0 && self.touched.insert(sector, ()).is_none() {
                latency = self.p.hbm as u32;
                self.block.work[HBM] += 32.0;
            }
            missed += 1;
            let arrival = later(at, latency + missed / 2);
            done = latest(done, arrival);
            if !cg {
                self.l1.insert(sector, arrival);
            }
        }
        self.block.loaded += missed * 32;
        self.block.work[L2_PORT] += (missed * 32) as f32;
        if !is_copy {
            self.block.work[PASSES] += lines as f32;
        }
        done
    }

    /// When a sector arrives that another block of this SM has loaded: at once after a block of an earlier wave; otherwise
    /// it may still be on its way.
    fn loaded_by_another_block(&mut self, sector: u64, at: Times) -> Option<Times> {
        let index = self.blocks.len() as u32;
        let sms = self.sm_l1.len();
        let held = &mut self.sm_l1[index as usize % sms];
        if held.len() >= self.l1_sectors {
            held.clear();
        }
        let first = *held.entry(sector).or_insert(index);
        if first == index {
            return None;
        }
        let is_earlier_wave = index - first >= sms as u32 * self.resident;
        let arrival = later(at, if is_earlier_wave { self.p.l1 } else { self.p.l2 } as u32);
        self.l1.insert(sector, arrival);
        Some(arrival)
    }

    /// Counts the sectors of a store.
    pub(super) fn write(&mut self, addresses: &[u64]) {
        let mut seen = Distinct::new();
        for &address in addresses {
            let sector = self.placed(address) / 32;
            seen.add(sector);
        }
        if self.p.cold != 0.0 {
            self.touched.extend(seen.sectors[..seen.count].iter().map(|&sector| (sector, ())));
        }
        self.block.stored += seen.count as u32 * 32;
        self.block.work[L2_PORT] += seen.count as f32 * 32.0;
        self.block.work[PASSES] += (seen.count as f32 / 4.0).ceil();
    }
}
