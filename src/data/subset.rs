//! Writes some images of a data file as a separate data file, so that a run on them needs no special case.

use std::ops::Range;
use std::path::Path;

use serde_json::json;

use super::contents::{DatasetContents, ImageContents, TypeContents};
use super::object_box::ObjectBox;
use super::scene_graph::SceneGraphBuf;
use super::split::shuffle;
use super::{Dataset, Split};
use crate::{Error, Result};

/// Chooses `count` images of `dataset` by a hash of their ids, in proportion to the splits (the rest after
/// rounding goes to train). The choice is the same on every machine. A smaller subset is contained in a
/// larger one as long as its shares are. Returns ascending indices.
pub fn choose(dataset: &Dataset, count: usize) -> Result<Vec<usize>> {
    let all = dataset.image_count();
    if count > all {
        let remedy = "give a smaller number, or leave --subset out";
        return Err(Error::argument("--subset", format!("is {count}, the data has {all} images"), remedy));
    }
    let share = |split: Split| (count as u128 * dataset.split(split).len() as u128 / all as u128) as usize;
    let (validation, test) = (share(Split::Validation), share(Split::Test));
    let mut chosen = Vec::with_capacity(count);
    for (split, share) in Split::PARTS.into_iter().zip([count - validation - test, validation, test]) {
        let mut images: Vec<usize> = dataset.split(split).collect();
        shuffle(&mut images, 0, |&image| dataset.image_id(image));
        chosen.extend_from_slice(&images[..share.min(images.len())]);
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// Writes the data file `out` with these images of `dataset` (ascending indices), in their splits and with
/// the whole vocabulary.
pub fn write_subset(dataset: &Dataset, images: &[usize], out: impl AsRef<Path>) -> Result<()> {
    let of_split = |split: Range<usize>| -> Vec<ImageContents> {
        images.iter().filter(|&image| split.contains(image)).map(|&image| contents(dataset, image)).collect()
    };
    let width = dataset.word_width();
    let objects = (0..dataset.object_count()).map(|object| TypeContents {
        name: dataset.object_name(object).into(),
        vector: dataset
            .object_known(object)
            .then(|| dataset.object_vectors()[object * width..][..width].to_vec()),
        occurrences: dataset.object_occurrences(object),
    });
    let predicates = (0..dataset.predicate_count()).map(|predicate| TypeContents {
        name: dataset.predicate_name(predicate).into(),
        vector: dataset
            .predicate_known(predicate)
            .then(|| dataset.predicate_vectors()[predicate * width..][..width].to_vec()),
        occurrences: dataset.predicate_occurrences(predicate),
    });
    let mut contents = DatasetContents {
        word_width: width,
        objects: objects.collect(),
        predicates: predicates.collect(),
        images: Split::PARTS.map(|split| of_split(dataset.split(split))),
        metadata: json!({
            "subset": { "images": images.len(), "of": dataset.fingerprint_digits() },
            "whole": dataset.metadata(),
        }),
    };
    contents.write(out)
}

fn contents(dataset: &Dataset, image: usize) -> ImageContents {
    let (graph, width) = (dataset.graph(image), dataset.word_width());
    ImageContents {
        image_id: dataset.image_id(image),
        coco_id: dataset.coco_id(image),
        captions: dataset.captions(image).map(str::to_owned).collect(),
        caption_vector: dataset.caption_vectors()[image * width..][..width].to_vec(),
        graph: SceneGraphBuf {
            node_object: graph.node_object.to_vec(),
            edge_subject: graph.edge_subject.to_vec(),
            edge_predicate: graph.edge_predicate.to_vec(),
            edge_object: graph.edge_object.to_vec(),
        },
        size: dataset.image_size(image),
        boxes: dataset.boxes(image).map(|found| found.unwrap_or(ObjectBox::NONE)).collect(),
        url: dataset.url(image).unwrap_or_default().to_owned(),
    }
}
