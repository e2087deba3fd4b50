//! Graphs predicted by a scene graph generator, in the files of Scene-Graph-Benchmark.pytorch.
//!
//! `custom_prediction.json` is a map from the index of an image to its boxes and pairs, best first:
//! `{bbox_labels: [class], bbox_scores: [score], rel_pairs: [[box, box]], rel_labels: [predicate], rel_scores: [score]}`.
//! `custom_data_info.json` names them: `{idx_to_files: [path], ind_to_classes: [name], ind_to_predicates: [name]}`; class and
//! predicate 0 are the background. Boxes are in pixels of a resized image, so they are not kept.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::json_stream::{Shape, records_up_to};
use super::raw_box::RawBox;
use super::raw_file::RawFile;
use super::raw_graphs::{RawGraphs, RawObject, RawRelationship};
use crate::files::text::read_text;
use crate::terminal::excerpt;
use crate::{Error, Result};

/// Largest record in bytes: the scores of all predicates for all pairs of 80 boxes take 7 MB.
const MOST_RECORD_BYTES: usize = 64 << 20;

/// How predictions are read.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// `custom_data_info.json`, which names images, classes and predicates.
    pub info: PathBuf,
    /// Which predictions become a part of the graph.
    pub limits: Limits,
}

/// Which predictions become a part of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, clap::Args)]
pub struct Limits {
    /// Keep predicted objects with at least this score.
    #[arg(long, value_name = "SCORE", default_value_t = 0.0, value_parser = score, requires = "data_info")]
    pub min_object_score: f64,
    /// Keep predicted relationships with at least this score.
    #[arg(long, value_name = "SCORE", default_value_t = 0.0, value_parser = score, requires = "data_info")]
    pub min_relationship_score: f64,
    /// Keep at most this number of predicted objects of an image, those with the best scores.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().top_objects, requires = "data_info")]
    pub top_objects: usize,
    /// Keep at most this number of predicted relationships between the kept objects, those with the best scores.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().top_relationships, requires = "data_info")]
    pub top_relationships: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { min_object_score: 0.0, min_relationship_score: 0.0, top_objects: 30, top_relationships: 20 }
    }
}

fn score(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(score) if (0.0..=1.0).contains(&score) => Ok(score),
        _ => Err("a number from 0 to 1".into()),
    }
}

#[derive(Deserialize)]
#[serde(expecting = "names of images, classes and predicates")]
struct Info {
    idx_to_files: Vec<String>,
    ind_to_classes: Vec<String>,
    ind_to_predicates: Vec<String>,
}

#[derive(Deserialize)]
#[serde(expecting = "the predictions of an image")]
struct Record {
    bbox_labels: Vec<usize>,
    bbox_scores: Vec<f64>,
    rel_pairs: Vec<[usize; 2]>,
    rel_labels: Vec<usize>,
    rel_scores: Vec<f64>,
}

/// Names of images, classes and predicates, and the ids of the images.
pub(in crate::data) struct Names {
    info: Info,
    /// `[images]` id of each image.
    ids: Vec<u64>,
    /// Index of the image with each id.
    by_id: HashMap<u64, usize>,
}

impl Names {
    /// Reads the file that names images, classes and predicates.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let info: Info = serde_json::from_str(&text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let problem = format!("not of the expected schema: {error}");
            Error::invalid(
                path,
                place,
                problem,
                "give custom_data_info.json of the same run of the generator",
            )
        })?;
        let ids = ids_of(&info.idx_to_files);
        let by_id = ids.iter().copied().zip(0..).collect();
        Ok(Names { info, ids, by_id })
    }

    /// Path of the image with this id.
    pub fn file(&self, id: u64) -> Option<&str> {
        self.by_id.get(&id).map(|&index| self.info.idx_to_files[index].as_str())
    }
}

/// Ids of images: the numbers that their files are named by, such as Visual Genome's, if all files have different ones;
/// otherwise their indices.
fn ids_of(files: &[String]) -> Vec<u64> {
    let number = |file: &String| {
        let name = file.rsplit(['/', '\\']).next().unwrap_or_default();
        name.split('.').next().unwrap_or_default().parse().ok()
    };
    let numbers: Option<Vec<u64>> = files.iter().map(number).collect();
    let distinct = |ids: &Vec<u64>| ids.iter().collect::<HashSet<_>>().len() == ids.len();
    numbers.filter(distinct).unwrap_or_else(|| (0..files.len() as u64).collect())
}

/// Reads predicted graphs. Calls `each` after every image.
pub(in crate::data) fn read(
    file: RawFile,
    names: &Names,
    limits: Limits,
    mut each: impl FnMut(&mut RawGraphs) -> Result<()>,
) -> Result<RawGraphs> {
    let path = file.path().to_path_buf();
    let mut graphs = RawGraphs::default();
    records_up_to(MOST_RECORD_BYTES, file, Shape::Map, |name, record: Record| {
        let invalid = |problem: String, remedy: &str| {
            Error::invalid(&path, format!("image `{}`", excerpt(&name.key)), problem, remedy)
        };
        const SAME: &str = "give the two files of one run of the generator";
        let index: usize = name.key.parse().map_err(|_| {
            invalid("its key is not an index".into(), "give custom_prediction.json of the generator")
        })?;
        let Some(&id) = names.ids.get(index) else {
            let count = names.ids.len();
            return Err(invalid(format!("--data-info names {count} images"), SAME));
        };
        let (objects, relationships) =
            record.graph(&names.info, limits).map_err(|problem| invalid(problem, SAME))?;
        let (image, local) = graphs.add_image(&path, id, None, objects)?;
        graphs.set_relationships(&path, image, &local, relationships, false)?;
        each(&mut graphs)
    })?;
    Ok(graphs)
}

type Graph = (Vec<RawObject<usize>>, Vec<RawRelationship<usize>>);

impl Record {
    /// Objects and relationships within the limits.
    fn graph(&self, info: &Info, limits: Limits) -> std::result::Result<Graph, String> {
        let (boxes, pairs) = (self.bbox_labels.len(), self.rel_pairs.len());
        for (field, length, expected) in [
            ("bbox_scores", self.bbox_scores.len(), boxes),
            ("rel_labels", self.rel_labels.len(), pairs),
            ("rel_scores", self.rel_scores.len(), pairs),
        ] {
            if length != expected {
                return Err(format!("`{field}` has {length} entries, expected {expected}"));
            }
        }
        let named = |names: &[String], kind: &str, label: usize| match names.get(label) {
            Some(name) => Ok(name.clone()),
            None => Err(format!("{kind} {label}, of {} that --data-info names", names.len())),
        };
        let labels = &self.bbox_labels;
        let kept = best(&self.bbox_scores, limits.min_object_score, limits.top_objects, |at| labels[at] > 0);
        let mut objects = Vec::new();
        for &at in &kept {
            let name = named(&info.ind_to_classes, "class", labels[at])?;
            objects.push(RawObject { id: at, name, place: RawBox::NONE });
        }
        if let Some([subject, object]) = self.rel_pairs.iter().find(|pair| pair.iter().any(|&at| at >= boxes))
        {
            return Err(format!("a pair of boxes {subject} and {object}, of {boxes}"));
        }
        let kept: HashSet<usize> = kept.into_iter().collect();
        let is_within =
            |at: usize| self.rel_labels[at] > 0 && self.rel_pairs[at].iter().all(|at| kept.contains(at));
        let least = limits.min_relationship_score;
        let mut relationships = Vec::new();
        for at in best(&self.rel_scores, least, limits.top_relationships, is_within) {
            let [subject, object] = self.rel_pairs[at];
            let predicate = named(&info.ind_to_predicates, "predicate", self.rel_labels[at])?;
            relationships.push(RawRelationship { subject, predicate, object });
        }
        Ok((objects, relationships))
    }
}

/// Indices of the `most` best scores from `least`, in ascending order; of equal scores the first.
fn best(scores: &[f64], least: f64, most: usize, is_candidate: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut kept: Vec<usize> =
        (0..scores.len()).filter(|&at| scores[at] >= least && is_candidate(at)).collect();
    kept.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    kept.truncate(most);
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_in_their_order() {
        let scores = [0.2, 0.9, 0.5, 0.9, 0.1];
        assert_eq!(best(&scores, 0.15, 3, |_| true), [1, 2, 3]);
        assert_eq!(best(&scores, 0.15, 9, |at| at != 1), [0, 2, 3]);
        assert_eq!(best(&scores, 0.0, 1, |_| true), [1]);
    }

    #[test]
    fn images_are_known_by_the_numbers_of_their_files() {
        let ids = |files: &[&str]| ids_of(&files.iter().map(|file| file.to_string()).collect::<Vec<_>>());
        assert_eq!(ids(&["VG_100K/107.jpg", "C:\\images\\5.png"]), [107, 5]);
        assert_eq!(ids(&["a/107.jpg", "b/107.jpg"]), [0, 1]);
        assert_eq!(ids(&["7.jpg", "dog.jpg"]), [0, 1]);
    }
}
