//! Grids of a case's launches, and the waves in which their blocks run on an H200. A device that only plans records the
//! launches; nothing runs.

use crate::backend::cuda::device::interpreter::{Resources, resources};
use crate::backend::cuda::device::{Device, PlannedLaunch};
use crate::bench::case::{Arrays, Prepared};
use crate::bench::occupancy::Multiprocessor;
use crate::error::Result;

/// Number of multiprocessors of an H200.
const MULTIPROCESSORS: u64 = 132;
/// Registers of a kernel that this build did not compile for a GPU.
const REGISTERS: u32 = 64;

/// Grids of the launches of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Plan {
    /// Number of launches.
    pub launches: usize,
    /// Number of blocks of the launch with the most waves.
    pub blocks: u64,
    /// Blocks of that launch, divided by the number that an H200 holds at once.
    pub waves: f64,
}

impl Plan {
    /// Plans the launches of a case.
    pub fn of(prepared: &Prepared) -> Result<Plan> {
        let device = Device::planned();
        let mut arrays = Arrays::upload(&device, &prepared.host)?;
        device.take_observations();
        (prepared.launch)(&device, &mut arrays)?;
        Ok(Plan::of_launches(&device.take_observations().planned))
    }

    /// Sums up launches.
    pub fn of_launches(launches: &[PlannedLaunch]) -> Plan {
        let resources = resources();
        let h200 = Multiprocessor::of("sm_90").expect("a known architecture");
        let grids = launches.iter().map(|PlannedLaunch { kernel, blocks }| {
            let dynamic = Resources { registers: REGISTERS, shared_bytes: kernel.dynamic_shared_bytes };
            let of = resources.get(kernel.name).copied().unwrap_or(dynamic);
            let threads = kernel.threads.iter().copied().map(u64::from).product();
            let held = h200.occupancy(threads, of.registers.into(), of.shared_bytes.into()).blocks;
            let blocks: u64 = blocks.iter().copied().map(u64::from).product();
            (blocks, blocks as f64 / (MULTIPROCESSORS * held.max(1)) as f64)
        });
        let largest = grids.max_by(|a, b| a.1.total_cmp(&b.1));
        let (blocks, waves) = largest.unwrap_or_default();
        Plan { launches: launches.len(), blocks, waves }
    }
}

#[cfg(test)]
mod tests {
    use super::Plan;
    use crate::backend::cuda::launchers::linear::Format;
    use crate::bench::cases;
    use crate::bench::sizes::{SMALL, Sizes};

    #[test]
    fn grids_of_training_have_more_blocks() {
        let blocks_of_heads = |sizes: &Sizes| {
            let cases = cases::all(sizes, Format::Bf16);
            let heads = cases.iter().find(|case| case.shape.ends_with("heads")).expect("the heads");
            let plan = Plan::of(&(heads.prepare)(sizes.spare_rows(heads.grows))).expect("a plan");
            assert_eq!(plan.launches, 1);
            plan.blocks
        };
        let exact = Sizes::new(SMALL, 2);
        let across = exact.config.heads_width(0).div_ceil(64) as u64;
        let in_training = exact.clone().with_training_grids();
        let rows = [exact.edges(), in_training.capacity.edges];
        assert!(rows[0].div_ceil(64) < rows[1].div_ceil(64), "{rows:?}");
        for (sizes, rows) in [exact, in_training].iter().zip(rows) {
            assert_eq!(blocks_of_heads(sizes), across * rows.div_ceil(64) as u64);
        }
    }
}
