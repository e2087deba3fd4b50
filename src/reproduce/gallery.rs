//! The paper's Figure 3: queries with the images nearest to them, by the model, by the bag of objects and by the
//! captions. Queries are drawn by a hash of their ids: nobody chose them.

use std::collections::BTreeMap;
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
const NEIGHBOURS: usize = 8;
/// A query with fewer relationships shows nothing of what a graph adds.
const LEAST_RELATIONSHIPS: usize = 3;
const QUERY_SEED: u64 = 3;

/// Queries and what was found for them.
#[derive(Clone, Debug, Serialize)]
pub struct Gallery {
    /// In the order of the page.
    pub queries: Vec<Query>,
    /// Every image that is shown, by its id.
    pub scenes: Vec<SceneEntry>,
}

/// A query image.
#[derive(Clone, Debug, Serialize)]
pub struct Query {
    /// Visual Genome id.
    pub image: u64,
    /// One list per method.
    pub lists: Vec<Neighbours>,
}

/// What one method found.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbours {
    /// Its name.
    pub method: String,
    /// Best first, without the query itself.
    pub images: Vec<Neighbour>,
}

/// An image that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbour {
    /// Visual Genome id.
    pub image: u64,
    /// What it was found by: cosine, or caption similarity.
    pub score: f64,
    /// Its captions' similarity to the query's, whatever it was found by.
    pub caption_similarity: f64,
}

/// An image as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct SceneEntry {
    /// Visual Genome id.
    pub image: u64,
    /// COCO id.
    pub coco: u64,
    /// Names of its objects.
    pub objects: Vec<String>,
    /// Subject (an index of `objects`), predicate, object.
    pub relationships: Vec<(usize, String, usize)>,
    /// The image's size, where the data has it.
    pub size: Option<ImageSize>,
    /// `[objects]` in pixels, or empty where the data has no boxes.
    pub boxes: Vec<Option<ObjectBox>>,
    /// As written.
    pub captions: Vec<String>,
    /// The address of the photograph, where addresses were asked for and the photograph is not in the page.
    pub photograph_url: Option<String>,
    /// Its boxes or its graph, drawn.
    #[serde(skip)]
    pub drawing: Drawing,
    /// The photograph as a data URL, where there is one.
    #[serde(skip)]
    pub photograph: Option<String>,
}

impl SceneEntry {
    /// `man - throwing -> frisbee` for each relationship.
    pub fn sentences(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let name = |object: &usize| self.objects[*object].as_str();
        self.relationships
            .iter()
            .map(move |(subject, predicate, object)| (name(subject), predicate.as_str(), name(object)))
    }

    /// The first caption.
    pub fn caption(&self) -> &str {
        self.captions.first().map_or("", |caption| caption.trim())
    }
}

impl Gallery {
    /// The scene of an image.
    pub fn scene(&self, image: &u64) -> &SceneEntry {
        let found = self.scenes.binary_search_by_key(image, |scene| scene.image);
        &self.scenes[found.expect("every image that is shown has a scene")]
    }
}

/// The gallery, by `model` where one is finished.
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
            // One more, for the query finds itself.
            let index = Embeddings::new(index, method.width)?;
            let found = nearest_stored(query, index, NEIGHBOURS + 1)?;
            let found = found.into_iter().filter(|&(other, _)| other != row).take(NEIGHBOURS);
            let images = found.map(|(other, score)| (images.start + other, f64::from(score)));
            Ok(Neighbours { method: method.name.clone(), images: shown(dataset, images, captions) })
        };
        let mut lists = Vec::new();
        for (method, index) in methods.iter().zip(&indices) {
            lists.push(neighbours(method, index)?);
        }
        let mut closest: Vec<(usize, f64)> =
            images.clone().filter(|&other| other != image).map(|other| (other, captions(other))).collect();
        closest.sort_by(|a, b| b.1.total_cmp(&a.1));
        closest.truncate(NEIGHBOURS);
        let found = shown(dataset, closest.into_iter(), captions);
        lists.push(Neighbours { method: "captions".into(), images: found });
        queries.push(Query { image: dataset.image_id(image), lists });
    }
    let mut scenes = BTreeMap::new();
    for query in &queries {
        let found = query.lists.iter().flat_map(|list| list.images.iter().map(|found| found.image));
        for id in found.chain([query.image]) {
            if let Some(image) = dataset.find_image(id)
                && !scenes.contains_key(&id)
            {
                scenes.insert(id, scene(dataset, image, reproduction)?);
            }
        }
    }
    let scenes: Vec<SceneEntry> = scenes.into_values().collect();
    if let Some(folder) = &reproduction.photographs
        && !scenes.is_empty()
        && scenes.iter().all(|scene| scene.photograph.is_none())
    {
        let example = scenes[0].image;
        return Err(Error::argument(
            "--images",
            format!("{} has no photograph of the {} images shown", folder.display(), scenes.len()),
            format!("give a folder of files such as {example}.jpg, named by Visual Genome or COCO ids"),
        ));
    }
    if reproduction.link_photographs
        && !scenes.is_empty()
        && scenes.iter().all(|scene| scene.photograph_url.is_none() && scene.photograph.is_none())
    {
        return Err(Error::argument(
            "--link-photographs",
            format!("{} has no address of the {} images shown", dataset.path().display(), scenes.len()),
            "prepare it again with an image_data.json that has `url`s, or leave the option out",
        ));
    }
    Ok(Gallery { queries, scenes })
}

fn shown(
    dataset: &Dataset,
    images: impl Iterator<Item = (usize, f64)>,
    captions: impl Fn(usize) -> f64,
) -> Vec<Neighbour> {
    images
        .map(|(image, score)| Neighbour {
            image: dataset.image_id(image),
            score,
            caption_similarity: captions(image),
        })
        .collect()
}

/// Test images with enough relationships, or any where there are too few of those.
fn query_images(dataset: &Dataset) -> Vec<usize> {
    let mut images: Vec<usize> = dataset.split(Split::Test).collect();
    shuffle(&mut images, QUERY_SEED, |&image| dataset.image_id(image));
    let relationships = |&image: &usize| {
        let graph = dataset.graph(image);
        graph.edge_count() + 1 - graph.node_count()
    };
    // Stable: the drawn order stays among those with enough and among the others.
    images.sort_by_key(|image| relationships(image) < LEAST_RELATIONSHIPS);
    images.truncate(QUERIES);
    images
}

fn scene(dataset: &Dataset, image: usize, reproduction: &Reproduction) -> Result<SceneEntry> {
    let graph = dataset.graph(image);
    let objects = dataset.object_names(graph);
    let relationships = dataset.relationships(graph);
    let (id, coco) = (dataset.image_id(image), dataset.coco_id(image));
    let (size, boxes) = (dataset.image_size(image), dataset.boxes(image).collect::<Vec<_>>());
    let frame = size.map(|size| Frame { size, boxes: &boxes });
    let drawing = scene_drawing::draw(Scene { objects: &objects, relationships: &relationships, frame })
        .map_err(Error::file("draw", format!("image {id}")))?;
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

/// Visual Genome's and COCO's names for an image's file.
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
