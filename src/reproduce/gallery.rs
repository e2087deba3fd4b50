//! Figure 3 of the paper: queries with their nearest images according to the model, the bag of objects and
//! the captions. Queries are selected by a hash of their ids, so they are not hand-picked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Serialize;

use super::Reproduction;
use super::figures::ChosenRun;
use super::material::Material;
use super::measure::{Method, bag_of_objects};
use super::training::method_of;
use crate::data::object_box::{ImageSize, ObjectBox};
use crate::data::split::shuffle;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluation::{Embeddings, nearest_stored};
use crate::report::scene::{Drawing, Frame, Scene};
use crate::report::scene_drawing;

const QUERIES: usize = 6;
const NEIGHBOURS: usize = 6;
/// Least number of relationships of a query; with fewer, the advantage of a graph is not visible.
const LEAST_RELATIONSHIPS: usize = 3;
const QUERY_SEED: u64 = 3;

/// Queries and their results.
#[derive(Clone, Debug, Serialize)]
pub struct Gallery {
    /// Queries in the order of the page.
    pub queries: Vec<Query>,
    /// Scenes of all images shown, ordered by id.
    pub scenes: Vec<SceneEntry>,
}

/// A query image.
#[derive(Clone, Debug, Serialize)]
pub struct Query {
    /// Visual Genome id.
    pub image: u64,
    /// Results, one list per method.
    pub lists: Vec<Neighbours>,
    /// Types of its objects, in increasing order.
    #[serde(skip)]
    pub kinds: Vec<usize>,
}

/// Results of one method.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbours {
    /// Name of the method.
    pub method: String,
    /// Best images first, without the query itself.
    pub images: Vec<Neighbour>,
}

/// An image in a result.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbour {
    /// Visual Genome id.
    pub image: u64,
    /// Score of the method: cosine, or caption similarity.
    pub score: f64,
    /// Similarity between its captions and those of the query, for any method.
    pub caption_similarity: f64,
    /// Names of the objects that it shares with the query, in alphabetical order.
    pub shared: Vec<String>,
}

/// An image that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct SceneEntry {
    /// Visual Genome id.
    pub image: u64,
    /// COCO id.
    pub coco: u64,
    /// Names of the objects.
    pub objects: Vec<String>,
    /// Relationships: subject (`-> objects`), predicate, object (`-> objects`).
    pub relationships: Vec<(usize, String, usize)>,
    /// Size of the image, if the data contains it.
    pub size: Option<ImageSize>,
    /// `[objects]` boxes in pixels, or empty if the data has no boxes.
    pub boxes: Vec<Option<ObjectBox>>,
    /// Captions as written.
    pub captions: Vec<String>,
    /// Address of the photograph, if addresses were requested and the page does not contain the photograph.
    pub photograph_url: Option<String>,
    /// Drawing of the boxes or the graph.
    #[serde(skip)]
    pub drawing: Drawing,
    /// Photograph as a data URL, if there is one.
    #[serde(skip)]
    pub photograph: Option<String>,
}

impl SceneEntry {
    /// Relationships, for display as `man - throwing -> frisbee`.
    pub fn sentences(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let name = |object: &usize| self.objects[*object].as_str();
        self.relationships
            .iter()
            .map(move |(subject, predicate, object)| (name(subject), predicate.as_str(), name(object)))
    }

    /// First caption.
    pub fn caption(&self) -> &str {
        self.captions.first().map_or("", |caption| caption.trim())
    }
}

impl Gallery {
    /// Types of the queries' objects, which the page marks.
    pub fn kinds(&self) -> BTreeSet<usize> {
        self.queries.iter().flat_map(|query| query.kinds.iter().copied()).collect()
    }

    /// Scene of an image.
    pub fn scene(&self, image: &u64) -> &SceneEntry {
        let found = self.scenes.binary_search_by_key(image, |scene| scene.image);
        &self.scenes[found.expect("every image that is shown has a scene")]
    }
}

/// Builds the gallery, using `model` if one is finished.
pub(super) fn gallery(
    model: Option<&ChosenRun>,
    material: &Material,
    reproduction: &Reproduction,
) -> Result<Gallery> {
    let dataset = &material.dataset;
    let images = dataset.split(Split::Test);
    let mut methods = Vec::new();
    if let Some(chosen) = model {
        methods.push(method_of(&chosen.run, chosen.name.clone()));
    }
    methods.push(bag_of_objects(dataset));
    let indices = methods.iter().map(|method| method.index(dataset)).collect::<Result<Vec<_>>>()?;
    let mut queries = Vec::new();
    for image in query_images(dataset) {
        let row = image - images.start;
        let captions = |other: usize| f64::from(dataset.similarity().get(image, other));
        let neighbours = |method: &Method<'_>, index: &[f32]| -> Result<Neighbours> {
            let query = Embeddings::new(&index[row * method.width..][..method.width], method.width)?;
            // One more, because the query finds itself.
            let index = Embeddings::new(index, method.width)?;
            let found = nearest_stored(query, index, NEIGHBOURS + 1)?;
            let found = found.into_iter().filter(|&(other, _)| other != row).take(NEIGHBOURS);
            let images = found.map(|(other, score)| (images.start + other, f64::from(score)));
            Ok(Neighbours { method: method.name.clone(), images: shown(dataset, image, images) })
        };
        let mut lists = Vec::new();
        for (method, index) in methods.iter().zip(&indices) {
            lists.push(neighbours(method, index)?);
        }
        let mut closest: Vec<(usize, f64)> =
            images.clone().filter(|&other| other != image).map(|other| (other, captions(other))).collect();
        closest.sort_by(|a, b| b.1.total_cmp(&a.1));
        closest.truncate(NEIGHBOURS);
        let found = shown(dataset, image, closest.into_iter());
        lists.push(Neighbours { method: "captions".into(), images: found });
        let kinds = object_types(dataset, image).into_iter().collect();
        queries.push(Query { image: dataset.image_id(image), lists, kinds });
    }
    let marked: BTreeSet<usize> =
        queries.iter().flat_map(|query: &Query| query.kinds.iter().copied()).collect();
    let mut scenes = BTreeMap::new();
    for query in &queries {
        let found = query.lists.iter().flat_map(|list| list.images.iter().map(|found| found.image));
        for id in found.chain([query.image]) {
            if let Some(image) = dataset.find_image(id)
                && !scenes.contains_key(&id)
            {
                scenes.insert(id, scene(dataset, image, &marked, reproduction)?);
            }
        }
    }
    let scenes: Vec<SceneEntry> = scenes.into_values().collect();
    Ok(Gallery { queries, scenes })
}

/// Results of a query.
fn shown(dataset: &Dataset, query: usize, images: impl Iterator<Item = (usize, f64)>) -> Vec<Neighbour> {
    let asked = object_types(dataset, query);
    images
        .map(|(image, score)| {
            let types = object_types(dataset, image);
            let mut shared: Vec<String> =
                types.intersection(&asked).map(|&object| dataset.object_name(object).to_owned()).collect();
            shared.sort_unstable();
            Neighbour {
                image: dataset.image_id(image),
                score,
                caption_similarity: f64::from(dataset.similarity().get(query, image)),
                shared,
            }
        })
        .collect()
}

/// Types of an image's objects.
fn object_types(dataset: &Dataset, image: usize) -> BTreeSet<usize> {
    let graph = dataset.graph(image);
    graph.node_object[..graph.node_count() - 1].iter().map(|&object| object as usize).collect()
}

/// Test images with enough relationships, or any if there are too few of those.
fn query_images(dataset: &Dataset) -> Vec<usize> {
    let mut images: Vec<usize> = dataset.split(Split::Test).collect();
    shuffle(&mut images, QUERY_SEED, |&image| dataset.image_id(image));
    let relationships = |&image: &usize| {
        let graph = dataset.graph(image);
        graph.edge_count() + 1 - graph.node_count()
    };
    // The sort is stable, so both groups keep their order.
    images.sort_by_key(|image| relationships(image) < LEAST_RELATIONSHIPS);
    images.truncate(QUERIES);
    images
}

/// The scene of an image, whose drawing names the `marked` types of objects by classes.
fn scene(
    dataset: &Dataset,
    image: usize,
    marked: &BTreeSet<usize>,
    reproduction: &Reproduction,
) -> Result<SceneEntry> {
    let graph = dataset.graph(image);
    let objects = dataset.object_names(graph);
    let relationships = dataset.relationships(graph);
    let (id, coco) = (dataset.image_id(image), dataset.coco_id(image));
    let (size, boxes) = (dataset.image_size(image), dataset.boxes(image).collect::<Vec<_>>());
    let frame = size.map(|size| Frame { size, boxes: &boxes });
    let kind = |&object: &u32| Some(object as usize).filter(|object| marked.contains(object));
    let kinds: Vec<_> = graph.node_object[..objects.len()].iter().map(kind).collect();
    let scene = Scene { objects: &objects, relationships: &relationships, kinds: &kinds, frame };
    let drawing = scene_drawing::draw(scene).map_err(Error::file("draw", format!("image {id}")))?;
    let photograph =
        match reproduction.photographs.as_deref().and_then(|folder| find_photograph(folder, id, coco)) {
            None => None,
            Some(path) => {
                let bytes = std::fs::read(&path).map_err(Error::file("read", &path))?;
                let kind = if path.extension().is_some_and(|kind| kind == "png") { "png" } else { "jpeg" };
                Some(format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes)))
            }
        };
    let linked = reproduction.link_photographs && photograph.is_none();
    let photograph_url = dataset.url(image).filter(|_| linked).map(str::to_owned);
    let captions = dataset.captions(image).map(str::to_owned).collect();
    Ok(SceneEntry {
        image: id,
        coco,
        objects,
        relationships,
        size,
        boxes,
        captions,
        photograph_url,
        drawing,
        photograph,
    })
}

/// Checks that the data's test images have photographs where the options promise some.
pub(super) fn check_photographs(dataset: &Dataset, reproduction: &Reproduction) -> Result<()> {
    let images = dataset.split(Split::Test);
    let found = |folder: &Path| {
        let mut images = images.clone();
        images.any(|image| find_photograph(folder, dataset.image_id(image), dataset.coco_id(image)).is_some())
    };
    if let Some(folder) = reproduction.photographs.as_deref().filter(|folder| !found(folder)) {
        let example = dataset.image_id(images.start);
        return Err(Error::argument(
            "--images",
            format!("{} has no photograph of the {} test images", folder.display(), images.len()),
            format!("give a folder of files such as {example}.jpg, named by Visual Genome or COCO ids"),
        ));
    }
    if reproduction.link_photographs && images.clone().all(|image| dataset.url(image).is_none()) {
        return Err(Error::argument(
            "--link-photographs",
            format!("{} has no address of the {} test images", dataset.path().display(), images.len()),
            "prepare it again with an image_data.json that has `url`s, or leave the option out",
        ));
    }
    Ok(())
}

/// Finds the file of an image by its Visual Genome or COCO name.
fn find_photograph(folder: &Path, id: u64, coco: u64) -> Option<PathBuf> {
    let names = [
        format!("{id}"),
        format!("VG_100K/{id}"),
        format!("VG_100K_2/{id}"),
        format!("{coco:012}"),
        format!("COCO_train2014_{coco:012}"),
        format!("COCO_val2014_{coco:012}"),
    ];
    names
        .iter()
        .flat_map(|name| ["jpg", "jpeg", "png"].map(|kind| folder.join(format!("{name}.{kind}"))))
        .find(|path| path.is_file())
}
