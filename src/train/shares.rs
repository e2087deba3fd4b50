//! Training on several ranks: their shares of the batches, and what must be equal on all.

use std::any::type_name;
use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

use super::checkpoint::{Checkpoint, RunConfig};
use super::config::TrainConfig;
use crate::backend::device::Arithmetic;
use crate::backend::kernels::Kernels;
use crate::error::{Error, Result};
use crate::ranks::Ranks;

/// Checks that each rank has a share of a batch.
pub(super) fn check_batch(config: &TrainConfig, ranks: &Ranks) -> Result<()> {
    if config.batch_size >= ranks.count() {
        return Ok(());
    }
    let problem = format!("{} triples cannot be shared by {} ranks", config.batch_size, ranks.count());
    Err(Error::argument("--batch-size", problem, "start fewer ranks, or give a larger batch"))
}

/// How all ranks compute, given what this one would: with `auto`, all take wgmma only if the device of each chose it. All ranks
/// call this, whatever their options are: [`check_ranks`] compares those later.
pub(super) fn agreed(arithmetic: Arithmetic, chosen: Kernels, ranks: &Ranks) -> Arithmetic {
    let others = ranks.gather(&[u8::from(chosen == Kernels::Wgmma)]);
    match others.iter().position(|&by_wgmma| by_wgmma == 0) {
        Some(rank) if arithmetic.kernels == Kernels::Auto && chosen == Kernels::Wgmma => {
            if ranks.is_first() {
                tracing::warn!("kernels auto: mma.sync, since the device of rank {rank} does not take wgmma");
            }
            Arithmetic { kernels: Kernels::Mma, ..arithmetic }
        }
        _ => arithmetic,
    }
}

/// Checks that all ranks train the same run, by the same program, on the same kind of device `B`.
pub(super) fn check_ranks<B>(ranks: &Ranks, config: &RunConfig, resume: Option<&Checkpoint>) -> Result<()> {
    let of_json = |value| xxh3_64(&serde_json::to_vec(&value).expect("plain fields"));
    let program = concat!(env!("CARGO_PKG_VERSION"), " ", env!("SCENERANK_COMMIT"));
    ranks.check_same(&[
        ("program", xxh3_64(program.as_bytes())),
        ("data file", xxh3_64(config.fingerprint.as_bytes())),
        ("kind of device", xxh3_64(type_name::<B>().as_bytes())),
        ("family of products", of_json(serde_json::json!(config.train.kernels))),
        ("configuration", of_json(serde_json::json!([config.train, config.supervision]))),
        ("checkpoint", of_json(serde_json::json!(resume.map(|checkpoint| &checkpoint.progress)))),
    ])
}

/// Anchors of this rank for the rest of an epoch, and the position among them: of each batch of `batch_size` anchors from
/// `position` on, its share. One rank has the whole `order`.
pub(super) fn own_anchors<'a>(
    ranks: &Ranks,
    order: &'a [u32],
    position: usize,
    batch_size: usize,
) -> (Cow<'a, [u32]>, usize) {
    if ranks.is_one() {
        return (Cow::Borrowed(order), position);
    }
    let shares = order[position..].chunks(batch_size).flat_map(|batch| &batch[ranks.share(batch.len())]);
    (Cow::Owned(shares.copied().collect()), 0)
}

/// Mean loss and number of triples of some steps over all ranks, given those of this rank's shares.
pub(super) fn losses_of_all(ranks: &Ranks, own: Vec<(f32, usize)>) -> Vec<(f32, usize)> {
    if ranks.is_one() {
        return own;
    }
    let sum = |&(loss, triples): &(f32, usize)| {
        [if triples > 0 { f64::from(loss) * triples as f64 } else { 0.0 }, triples as f64]
    };
    let all = ranks.gather(&own.iter().map(sum).collect::<Vec<_>>());
    let of_step = |step: usize| {
        let of_ranks = || all[step..].iter().step_by(own.len());
        let triples: f64 = of_ranks().map(|[_, triples]| triples).sum();
        ((of_ranks().map(|[sum, _]| sum).sum::<f64>() / triples) as f32, triples as usize)
    };
    (0..own.len()).map(of_step).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::device::Precision;
    use crate::ranks::Exchange;

    /// One of three ranks, of which all three give these bytes.
    struct Given([u8; 3]);

    impl Exchange for Given {
        fn rank(&self) -> usize {
            0
        }

        fn count(&self) -> usize {
            3
        }

        fn rank_on_machine(&self) -> usize {
            0
        }

        fn all_gather(&self, own: &[u8], all: &mut [u8]) {
            assert_eq!(own, [self.0[0]]);
            all.copy_from_slice(&self.0);
        }

        fn all_to_all(&self, _: &[u8], _: &mut [u8]) {
            panic!("nothing is sent to one rank alone");
        }
    }

    #[test]
    fn all_ranks_take_wgmma_or_none() {
        use Kernels::{Auto, Mma, Wgmma};
        for (named, chosen, all, wanted) in [
            (Auto, Wgmma, [1, 1, 1], Auto),
            (Auto, Wgmma, [1, 1, 0], Mma),
            (Auto, Mma, [0, 1, 1], Auto),
            // Named families stay as they are; the check of ranks compares them.
            (Wgmma, Wgmma, [1, 0, 1], Wgmma),
            (Mma, Mma, [0, 1, 1], Mma),
        ] {
            let arithmetic = Arithmetic::new(Precision::Bf16, named);
            let agreed = agreed(arithmetic, chosen, &Ranks::new(Arc::new(Given(all))));
            assert_eq!(agreed.kernels, wanted, "{named} {chosen} {all:?}");
        }
    }
}
