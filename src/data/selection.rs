//! First half of the preparation: joins graphs with captions, counts types, filters types and images.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::kept_images::{KeptImage, KeptImages, KeptWriter};
use super::object_box::{Corners, ImageSize, NO_CORNERS, ObjectBox};
use super::raw::coco_captions::{self, Captions};
use super::raw::image_data::Address;
use super::raw::predictions::{self, Predictions};
use super::raw::raw_file::RawFile;
use super::raw::raw_graphs::{GraphView, Names, RawGraphs};
use super::raw::stored_graphs::{GraphStore, StoredGraphs};
use super::raw::{image_data, visual_genome};
use super::stages::{Pictures, Stages};
use super::vocabulary::Vocabulary;
use crate::terminal::{cut, excerpt};
use crate::{Error, Result};

/// Raw files with graphs and captions.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Scene graphs.
    pub graphs: GraphSource,
    /// Visual Genome's `image_data.json`.
    pub image_data: PathBuf,
    /// COCO caption files.
    pub captions: Vec<PathBuf>,
}

/// Source of the scene graphs.
#[derive(Clone, Debug)]
pub enum GraphSource {
    /// Visual Genome's `scene_graphs.json`, or a GQA scene graph file.
    SceneGraphs(PathBuf),
    /// Visual Genome's `objects.json` and `relationships.json`.
    ObjectsAndRelationships(PathBuf, PathBuf),
    /// What a scene graph generator predicted.
    Predictions(PathBuf, Predictions),
}

impl GraphSource {
    /// Path of the file that lists the images.
    pub fn path(&self) -> &PathBuf {
        match self {
            GraphSource::SceneGraphs(path)
            | GraphSource::ObjectsAndRelationships(path, _)
            | GraphSource::Predictions(path, _) => path,
        }
    }

    /// Every file of the source.
    pub(super) fn paths(&self) -> Vec<&PathBuf> {
        match self {
            GraphSource::SceneGraphs(path) => vec![path],
            GraphSource::ObjectsAndRelationships(path, other) => vec![path, other],
            GraphSource::Predictions(path, predictions) => vec![path, &predictions.info],
        }
    }

    /// Reads all graphs into temporary files beside `target`. Also returns what is known of all of them: names and counts.
    fn read(
        &self,
        most_expansion: u64,
        skip_absent_objects: bool,
        target: &Path,
    ) -> Result<(RawGraphs, StoredGraphs)> {
        let open = |path: &PathBuf| RawFile::open(path, most_expansion);
        let mut store = GraphStore::beside(target);
        let each = |raw: &mut RawGraphs| store.take(raw);
        let (mut raw, graphs) = match self {
            GraphSource::SceneGraphs(path) => {
                let raw = visual_genome::read_scene_graphs(open(path)?, skip_absent_objects, each)?;
                (raw, store.finish()?)
            }
            GraphSource::ObjectsAndRelationships(objects, relationships) => {
                let paths = [objects.as_path(), relationships];
                visual_genome::read_objects_and_relationships(
                    paths,
                    most_expansion,
                    skip_absent_objects,
                    target,
                )?
            }
            GraphSource::Predictions(path, Predictions { info, limits }) => {
                let names = predictions::Names::read(info)?;
                let raw = predictions::read(open(path)?, &names, *limits, each)?;
                (raw, store.finish()?)
            }
        };
        raw.forget_ids();
        Ok((raw, graphs))
    }
}

/// Images over which the occurrences of types are counted.
///
/// The paper does not say. The default is the whole file: the vocabulary then does not depend on the
/// available caption files, and never has fewer types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CountOver {
    /// Every image in the graph file.
    #[default]
    File,
    /// The images that have captions.
    Joined,
}

/// Criteria for keeping types and images.
#[derive(Clone, Debug, Serialize)]
pub struct Filter {
    /// Least number of occurrences of an object type.
    pub min_object_occurrences: u64,
    /// Least number of occurrences of a predicate type; duplicate relationships count.
    pub min_predicate_occurrences: u64,
    /// Images over which occurrences are counted.
    pub count_over: CountOver,
    /// Least number of objects of kept types in an image.
    pub min_objects: usize,
    /// Largest number of objects of kept types in an image.
    pub max_objects: usize,
    /// Least number of relationships in an image with a kept predicate and kept objects.
    pub min_relationships: usize,
    /// Whether to drop relationships that refer to an absent object, instead of rejecting the file.
    pub skip_absent_objects: bool,
    /// Types to keep, such as those of a trained model, instead of the types that occur often enough.
    #[serde(serialize_with = "is_given", rename = "types_of_model")]
    pub vocabulary: Option<Vocabulary>,
}

/// Writes only whether a vocabulary was given: its names are those of the data file.
fn is_given<S: serde::Serializer>(
    vocabulary: &Option<Vocabulary>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_bool(vocabulary.is_some())
}

impl Default for Filter {
    /// Values of the paper.
    fn default() -> Self {
        Filter {
            min_object_occurrences: 25,
            min_predicate_occurrences: 25,
            count_over: CountOver::File,
            min_objects: 3,
            max_objects: 40,
            min_relationships: 1,
            skip_absent_objects: false,
            vocabulary: None,
        }
    }
}

/// Result of joining and filtering.
#[derive(Debug)]
pub struct Selection {
    /// Object types, in order of decreasing frequency.
    pub objects: Vec<KeptType>,
    /// Predicate types, in order of decreasing frequency.
    pub predicates: Vec<KeptType>,
    /// Images, in the order of the graph file.
    pub images: KeptImages,
    /// Captions of these images, and of others.
    pub captions: Captions,
    /// Counts of the stages so far.
    pub stages: Stages,
}

/// A type that occurs often enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptType {
    /// Name in lower case.
    pub name: String,
    /// Number of occurrences.
    pub occurrences: u64,
}

/// Reads graphs and captions, joins and filters them. A gzip file may unpack to `most_expansion` times its size.
///
/// Graphs, captions and addresses go to temporary files in the folder of `target`. Memory holds less than 200 bytes per image.
pub fn select(sources: &Sources, most_expansion: u64, filter: &Filter, target: &Path) -> Result<Selection> {
    let (raw, graphs) = sources.graphs.read(most_expansion, filter.skip_absent_objects, target)?;
    let mut stages = Stages { oddities: raw.oddities, spellings: raw.spellings, ..Default::default() };
    // Name 0 stands for "no name".
    stages.object_names = raw.object_names.count() as u64 - 1;
    stages.predicate_names = raw.predicates.count() as u64 - 1;
    graphs.iter().for_each(|image| stages.graph_file.add(image.objects.len(), image.relationships.len()));

    let image_data = image_data::read(&sources.image_data, most_expansion, target)?;
    stages.spellings.add(image_data.spellings);
    let mut coco_ids: Vec<Option<u64>> =
        graphs.iter().map(|image| Some(image_data.get(image.image_id)?.coco_id)).collect();
    stages.with_coco_id = coco_ids.iter().flatten().count() as u64;
    let wanted: HashSet<u64> = coco_ids.iter().flatten().copied().collect();
    let is_wanted = |coco_id| wanted.contains(&coco_id);
    let captions = coco_captions::read(&sources.captions, most_expansion, is_wanted, target)?;
    drop(wanted);
    stages.spellings.add(captions.spellings);
    stages.captions_read = captions.read;
    (stages.captions_repeated, stages.captions_clashing) = (captions.repeated, captions.clashing);
    for coco_id in &mut coco_ids {
        *coco_id = coco_id.filter(|&id| captions.of_image(id).next().is_some());
    }
    let joined = |image: usize| coco_ids[image].is_some();
    for (_, image) in graphs.iter().enumerate().filter(|&(index, _)| joined(index)) {
        stages.joined.add(image.objects.len(), image.relationships.len());
    }
    if stages.joined.images == 0 {
        return Err(nothing_joined(sources, &stages));
    }

    let counted = |image: usize| filter.count_over == CountOver::File || joined(image);
    let (mut object_counts, mut predicate_counts) =
        (vec![0u64; raw.object_names.count()], vec![0u64; raw.predicates.count()]);
    for (_, image) in graphs.iter().enumerate().filter(|&(index, _)| counted(index)) {
        image.objects.iter().for_each(|&name| object_counts[name as usize] += 1);
        image.relationships.iter().for_each(|&[_, predicate, _]| predicate_counts[predicate as usize] += 1);
    }
    let ((objects, object_types), (predicates, predicate_types)) = match &filter.vocabulary {
        Some(vocabulary) => (
            given_types(&raw.object_names, &object_counts, vocabulary.objects()),
            given_types(&raw.predicates, &predicate_counts, vocabulary.predicates()),
        ),
        None => (
            keep_types(&raw.object_names, &object_counts, filter.min_object_occurrences),
            keep_types(&raw.predicates, &predicate_counts, filter.min_predicate_occurrences),
        ),
    };
    (stages.object_types, stages.predicate_types) = (objects.len() as u64, predicates.len() as u64);

    let mut images = KeptWriter::beside(target);
    for (image, coco_id) in graphs.iter().zip(&coco_ids) {
        let reduced = reduce(image, &object_types, &predicate_types);
        let (object_count, relationship_count) = (reduced.objects.len(), reduced.relationships.len());
        let dropped = if object_count < filter.min_objects {
            Some(&mut stages.too_few_objects)
        } else if object_count > filter.max_objects {
            Some(&mut stages.too_many_objects)
        } else if relationship_count < filter.min_relationships {
            Some(&mut stages.too_few_relationships)
        } else {
            None
        };
        match (dropped, coco_id) {
            (Some(dropped), Some(_)) => *dropped += 1,
            (Some(_), None) => {}
            (None, coco_id) => {
                stages.filtered_graph_file.add(object_count, relationship_count);
                if let &Some(coco_id) = coco_id {
                    stages.filtered.add(object_count, relationship_count);
                    stages.duplicate_relationships += reduced.duplicates;
                    let image_id = image.image_id;
                    let found = image_data.get(image_id);
                    let size = image.size.or_else(|| found.and_then(|found| found.size));
                    let Reduced { objects, relationships, corners, .. } = &reduced;
                    let relationships: Vec<[u32; 3]> = relationships
                        .iter()
                        .map(|&(subject, predicate, object)| [subject, predicate, object])
                        .collect();
                    let boxes = &boxes_within(corners, size, &mut stages.pictures);
                    let url = address(found.and_then(|found| found.url), &mut stages.pictures);
                    images.push(KeptImage {
                        image_id,
                        coco_id,
                        size,
                        boxes,
                        url,
                        objects,
                        relationships: &relationships,
                    })?;
                }
            }
        }
    }
    if images.is_empty() {
        let problem = format!("no image is left: {}", stages.summary());
        let remedy = match filter.vocabulary {
            Some(_) => "give graphs in the names of the run, or widen the other limits",
            None => "lower --min-occurrences, or widen the other limits",
        };
        return Err(Error::invalid(sources.graphs.path(), "filter", problem, remedy));
    }
    Ok(Selection { objects, predicates, images: images.finish()?, captions, stages })
}

fn nothing_joined(sources: &Sources, stages: &Stages) -> Error {
    let name = |path: &PathBuf| excerpt(&path.file_name().unwrap_or_default().to_string_lossy());
    let captions: Vec<String> = sources.captions.iter().map(name).collect();
    let problem = format!(
        "no image has captions: of its {} images, {} have a COCO id in {}, and none of these has a caption in {}",
        stages.graph_file.images,
        stages.with_coco_id,
        name(&sources.image_data),
        cut(&captions.join(", "), 60)
    );
    Error::invalid(sources.graphs.path(), "join", problem, "give files that match")
}

/// Returns the types that occur at least `minimum` times, and the type of each name. Types are ordered by
/// decreasing frequency, then by name, so that the order of the raw file does not matter.
fn keep_types(names: &Names, counts: &[u64], minimum: u64) -> (Vec<KeptType>, Vec<Option<u32>>) {
    let mut kept: Vec<usize> = (1..names.count()).filter(|&name| counts[name] >= minimum.max(1)).collect();
    kept.sort_by_key(|&name| (std::cmp::Reverse(counts[name]), names.text(name)));
    let mut type_of = vec![None; names.count()];
    kept.iter().zip(0u32..).for_each(|(&name, index)| type_of[name] = Some(index));
    let describe = |&name: &usize| KeptType { name: names.text(name).to_string(), occurrences: counts[name] };
    (kept.iter().map(describe).collect(), type_of)
}

/// Like [`keep_types`], for types that are given by their `names`; the last one is that of the image.
fn given_types(raw: &Names, counts: &[u64], names: &[String]) -> (Vec<KeptType>, Vec<Option<u32>>) {
    let annotated = &names[..names.len() - 1];
    let index: HashMap<&str, u32> = annotated.iter().map(String::as_str).zip(0..).collect();
    let type_of: Vec<Option<u32>> = (0..raw.count()).map(|name| index.get(raw.text(name)).copied()).collect();
    let mut kept: Vec<KeptType> =
        annotated.iter().map(|name| KeptType { name: name.clone(), occurrences: 0 }).collect();
    for (found, count) in type_of.iter().zip(counts) {
        if let &Some(found) = found {
            kept[found as usize].occurrences = *count;
        }
    }
    (kept, type_of)
}

/// Clips the boxes of an image's objects at its border, and counts them; empty if there are none.
fn boxes_within(corners: &[Corners], size: Option<ImageSize>, counts: &mut Pictures) -> Vec<ObjectBox> {
    let annotated = corners.iter().filter(|&&corners| corners != NO_CORNERS).count() as u64;
    let Some(size) = size else {
        counts.boxes_without_image_size += annotated;
        return Vec::new();
    };
    counts.images_with_size += 1;
    if annotated == 0 {
        return Vec::new();
    }
    let mut within = |&corners: &Corners| {
        if corners == NO_CORNERS {
            return ObjectBox::NONE;
        }
        let Some(kept) = ObjectBox::within(corners, size) else {
            counts.boxes_outside += 1;
            return ObjectBox::NONE;
        };
        counts.boxes += 1;
        counts.boxes_cut += u64::from(kept.corners() != corners);
        kept
    };
    corners.iter().map(&mut within).collect()
}

fn address<'a>(found: Option<Address<'a>>, counts: &mut Pictures) -> &'a str {
    match found {
        None => "",
        Some(Address::Web(url)) => {
            counts.urls += 1;
            url
        }
        Some(Address::Other) => {
            counts.urls_refused += 1;
            ""
        }
    }
}

/// A graph reduced to kept types.
pub(super) struct Reduced {
    pub objects: Vec<u32>,
    /// `[objects]` annotated boxes.
    pub corners: Vec<Corners>,
    /// Subject (`-> objects`), predicate type, object (`-> objects`), without duplicates.
    pub relationships: Vec<(u32, u32, u32)>,
    pub duplicates: u64,
}

/// Reduces a graph to objects and relationships whose names have a type.
pub(super) fn reduce(
    graph: GraphView<'_>,
    object_types: &[Option<u32>],
    predicate_types: &[Option<u32>],
) -> Reduced {
    let mut reduced =
        Reduced { objects: Vec::new(), corners: Vec::new(), relationships: Vec::new(), duplicates: 0 };
    let nodes: Vec<Option<u32>> = graph
        .objects
        .iter()
        .zip(graph.boxes)
        .map(|(&name, &corners)| {
            let object_type = object_types[name as usize]?;
            reduced.corners.push(corners);
            reduced.objects.push(object_type);
            Some(reduced.objects.len() as u32 - 1)
        })
        .collect();
    let mut seen = HashSet::new();
    for &[subject, predicate, object] in graph.relationships {
        let kept = (nodes[subject as usize], predicate_types[predicate as usize], nodes[object as usize]);
        let (Some(subject), Some(predicate), Some(object)) = kept else { continue };
        if seen.insert((subject, predicate, object)) {
            reduced.relationships.push((subject, predicate, object));
        } else {
            reduced.duplicates += 1;
        }
    }
    reduced
}
