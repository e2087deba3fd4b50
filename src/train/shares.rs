//! Training on several ranks: their shares of the batches, and what must be equal on all.

use std::any::type_name;
use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

use super::checkpoint::{Checkpoint, RunConfig};
use super::config::TrainConfig;
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
