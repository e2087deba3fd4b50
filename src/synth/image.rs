//! One synthetic image: first what it depicts (scene, activity, salient objects), then a scene graph as an
//! annotator might draw it.
//!
//! Everything depends only on (seed, index). Images can be generated in any order and on any number of
//! threads, and a longer collection begins with the images of a shorter one.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::StandardNormal;

use super::draws::{Stream, rank_weight, sample_distinct, stream, weighted, zipf};
use super::layout;
use super::object::Object;
use super::scene_model::{Activity, Scene, SceneModel};

/// Share of images without a COCO id, and therefore without captions.
pub const WITHOUT_COCO_RATE: f64 = 0.01;
/// Share of images with the COCO id of the previous image: one photograph, annotated twice.
pub const SHARED_COCO_RATE: f64 = 0.005;
/// Share of images without an activity.
pub const QUIET_RATE: f64 = 0.12;
/// Share of activities with a second actor of the same type.
pub const COMPANY_RATE: f64 = 0.4;
/// Share of other relationships whose predicate is usual in this superclass of scenes.
pub const HABIT_RATE: f64 = 0.6;
/// Share of names and predicates written in upper case.
pub const UPPER_CASE_RATE: f64 = 0.02;
/// Share of objects with a name so rare that every filter drops it.
pub const RARE_NAME_RATE: f64 = 0.005;
/// Share of objects with a synonym as a second name.
pub const SECOND_NAME_RATE: f64 = 0.01;
/// Share of images with one relationship annotated twice.
pub const DUPLICATE_RATE: f64 = 0.02;

/// Number of objects per image: normally distributed, so that a few images have more than 40 or fewer than 3.
const OBJECTS_MEAN: f64 = 22.0;
const OBJECTS_DEVIATION: f64 = 8.0;
const OBJECTS_MAX: f64 = 70.0;
/// Number of relationships per image: log-normal, with a long right tail.
const RELATIONSHIPS_MEDIAN: f64 = 13.0;
const RELATIONSHIPS_LOG_DEVIATION: f64 = 0.73;
const RELATIONSHIPS_MAX: f64 = 90.0;
/// Correlation of the logarithms of the numbers of relationships and objects.
const RICHNESS: f64 = 0.5;

/// Image i has the id i+1 in Visual Genome, and i+1 plus this number in COCO, so that mixing them up is
/// noticed.
const FIRST_COCO_ID: u64 = 500_000;
/// Object and relationship ids are the image id times this number, plus their index.
const IDS_PER_IMAGE: u64 = 100;

/// Relation of a Visual Genome image to COCO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CocoRole {
    /// A COCO image of its own, with captions.
    Own,
    /// The same COCO image as the previous image.
    SharesPrevious,
    /// Not a COCO image.
    Absent,
}

/// Role of image `index`.
pub fn coco_role(seed: u64, index: u64) -> CocoRole {
    match drawn_role(seed, index) {
        // Sharing requires that the previous image has a COCO id of its own.
        CocoRole::SharesPrevious if index == 0 || drawn_role(seed, index - 1) != CocoRole::Own => {
            CocoRole::Own
        }
        role => role,
    }
}

fn drawn_role(seed: u64, index: u64) -> CocoRole {
    let draw: f64 = stream(seed, index, Stream::Role).random();
    if draw < WITHOUT_COCO_RATE {
        CocoRole::Absent
    } else if draw < WITHOUT_COCO_RATE + SHARED_COCO_RATE {
        CocoRole::SharesPrevious
    } else {
        CocoRole::Own
    }
}

/// Index of the image whose photograph image `index` shows: itself, or the previous one.
fn photograph(seed: u64, index: u64) -> u64 {
    index - u64::from(coco_role(seed, index) == CocoRole::SharesPrevious)
}

/// Visual Genome id of image `index`.
pub fn image_id(index: u64) -> u64 {
    index + 1
}

/// COCO id of image `index`, if any.
pub fn coco_id(seed: u64, index: u64) -> Option<u64> {
    match coco_role(seed, index) {
        CocoRole::Own => Some(FIRST_COCO_ID + index),
        CocoRole::SharesPrevious => Some(FIRST_COCO_ID + index - 1),
        CocoRole::Absent => None,
    }
}

/// Content of an image; the scene graph and the captions are two partial views of it.
#[derive(Clone, Debug)]
pub struct Depiction {
    /// Index into [`SceneModel::scenes`].
    pub scene: usize,
    /// Index into the scene's activities; `None` if there is no activity.
    pub activity: Option<usize>,
    /// Object type of the actor.
    pub subject: usize,
    /// Object types in view, in groups from the most specific (the scene's) to the most common.
    pub(super) in_view: [Vec<usize>; 4],
}

/// Number of object types drawn from each group: the scene's, the superclass's, the setting's, and those
/// found anywhere.
const GROUP_SIZES: [usize; 4] = [6, 3, 4, 3];
/// Share of each group among the objects of an image.
const GROUP_WEIGHTS: [f64; 4] = [0.5, 0.2, 0.18, 0.12];
/// Number of object types that are always in the graph, and that captions prefer.
pub(super) const SALIENT: usize = 3;

impl Depiction {
    /// Content of image `index`; a photograph that was annotated twice has the same content both times.
    pub fn new(seed: u64, index: u64) -> Depiction {
        let model = SceneModel::get();
        let rng = &mut stream(seed, photograph(seed, index), Stream::Depiction);
        let scene_index = weighted(rng, model.scenes.iter().map(|scene| scene.weight));
        let scene = &model.scenes[scene_index];
        let superclass = &model.superclasses[scene.superclass];
        let activity = (!rng.random_bool(QUIET_RATE)).then(|| rng.random_range(0..scene.activities.len()));
        let anyone = zipf(rng, &model.persons);
        let subject = activity.and_then(|a| scene.activities[a].subject).unwrap_or(anyone);
        let setting = if superclass.outdoor { &model.outdoor } else { &model.indoor };
        let lists = [&scene.objects, &superclass.objects, setting, &model.anywhere];
        let mut in_view = [0, 1, 2, 3].map(|group| sample_distinct(rng, lists[group], GROUP_SIZES[group]));
        // Adds the objects of another activity, so that the objects present do not reveal the activity.
        if rng.random_bool(0.6) {
            let other = &scene.activities[rng.random_range(0..scene.activities.len())];
            in_view[0].extend([other.object, other.place]);
        }
        Depiction { scene: scene_index, activity, subject, in_view }
    }

    /// Scene of the image.
    pub fn scene(&self) -> &'static Scene {
        &SceneModel::get().scenes[self.scene]
    }

    /// Activity in the image, if any.
    pub fn activity(&self) -> Option<&'static Activity> {
        self.activity.map(|activity| &self.scene().activities[activity])
    }
}

/// A directed, named pair of objects, as in Visual Genome.
#[derive(Debug, serde::Serialize)]
pub struct Relationship {
    relationship_id: u64,
    predicate: String,
    subject_id: u64,
    object_id: u64,
}

/// One entry of `scene_graphs.json`.
#[derive(Debug, serde::Serialize)]
pub struct AnnotatedGraph {
    image_id: u64,
    objects: Vec<Object>,
    relationships: Vec<Relationship>,
}

/// Width and height of image `index` in pixels.
pub fn image_size(seed: u64, index: u64) -> (u32, u32) {
    let rng = &mut stream(seed, photograph(seed, index), Stream::Size);
    let (long, short) = (640, rng.random_range(400..=500));
    if rng.random_bool(0.7) { (long, short) } else { (short, long) }
}

/// Scene graph of image `index`.
pub fn annotated_graph(seed: u64, index: u64, depiction: &Depiction) -> AnnotatedGraph {
    let rng = stream(seed, index, Stream::Graph);
    let mut annotator =
        Annotator { rng, objects: Vec::new(), triples: Vec::new(), size: image_size(seed, index) };
    annotator.annotate(depiction);
    annotator.finish(image_id(index))
}

/// Draws boxes and relationships until the graph has its intended size.
struct Annotator {
    rng: Xoshiro256PlusPlus,
    objects: Vec<Object>,
    /// Triples (subject, predicate, object); the ends are indices into `objects`.
    triples: Vec<(usize, String, usize)>,
    size: (u32, u32),
}

impl Annotator {
    fn annotate(&mut self, depiction: &Depiction) {
        let richness: f64 = self.rng.sample(StandardNormal);
        let spread: f64 = self.rng.sample(StandardNormal);
        let object_count =
            (OBJECTS_MEAN + OBJECTS_DEVIATION * richness).round().clamp(1.0, OBJECTS_MAX) as usize;
        let log_ratio = RICHNESS * richness + (1.0 - RICHNESS * RICHNESS).sqrt() * spread;
        let relationship_count = RELATIONSHIPS_MEDIAN * (RELATIONSHIPS_LOG_DEVIATION * log_ratio).exp();
        let relationship_count = relationship_count.min(RELATIONSHIPS_MAX) as usize;

        if let Some(activity) = depiction.activity() {
            let ends = [depiction.subject, activity.object, activity.place].map(|kind| self.add(kind));
            self.triples.push((ends[0], activity.verb.clone(), ends[1]));
            self.triples.push((ends[0], activity.preposition.clone(), ends[2]));
            if self.rng.random_bool(COMPANY_RATE) {
                let companion = self.add(depiction.subject);
                self.triples.push((companion, activity.verb.clone(), ends[1]));
            }
        }
        for &kind in &depiction.in_view[0][..SALIENT] {
            self.add(kind);
        }
        while self.objects.len() < object_count {
            self.add_any(depiction);
        }
        // An annotation that ends early keeps what was drawn first.
        self.objects.truncate(object_count);
        self.triples.retain(|&(subject, _, object)| subject.max(object) < object_count);
        self.triples.truncate(relationship_count);
        // Not every draw finds a suitable predicate; the bound prevents an endless loop for graphs with one
        // object.
        let habits = depiction.scene().superclass;
        for _ in 0..20 * relationship_count {
            if self.triples.len() >= relationship_count {
                break;
            }
            self.relate_any(habits);
        }
        if !self.triples.is_empty() && self.rng.random_bool(DUPLICATE_RATE) {
            self.triples.push(self.triples[0].clone());
        }
    }

    /// Adds one object: in view, a part of an earlier one, or a rarity.
    fn add_any(&mut self, depiction: &Depiction) {
        let draw: f64 = self.rng.random();
        if draw < RARE_NAME_RATE {
            self.add_rarity();
        } else if draw < 0.17 {
            self.add_part();
        } else {
            let group = &depiction.in_view[weighted(&mut self.rng, GROUP_WEIGHTS.into_iter())];
            let kind = zipf(&mut self.rng, group);
            self.add(kind);
        }
    }

    fn add(&mut self, kind: usize) -> usize {
        let model = SceneModel::get();
        let object = &model.objects[kind];
        let mut names = vec![object.name.clone()];
        if self.rng.random_bool(0.12)
            && let Some(plural) = model.plural(kind)
        {
            names[0] = plural;
        }
        if !object.synonyms.is_empty() && self.rng.random_bool(SECOND_NAME_RATE) {
            names.push(zipf(&mut self.rng, &object.synonyms));
        }
        self.push(names, Some(object.category))
    }

    /// Adds a part such as "wheel" or "bus wheel", often with a relationship to the whole.
    fn add_part(&mut self) {
        let model = SceneModel::get();
        let whole = self.rng.random_range(0..self.objects.len());
        let Some(category) = self.objects[whole].category else { return };
        let parts = &model.categories[category].parts;
        if parts.is_empty() {
            return;
        }
        let mut name = zipf(&mut self.rng, parts);
        if self.rng.random_bool(0.35) {
            name = format!("{} {name}", self.objects[whole].names[0].to_lowercase());
        }
        let part = self.push(vec![name], None);
        match self.rng.random_range(0..10) {
            0..5 => {
                self.triples.push((part, zipf(&mut self.rng, &["on", "of", "part of"]).to_string(), whole))
            }
            5..7 => self.triples.push((whole, zipf(&mut self.rng, &["has", "with"]).to_string(), part)),
            _ => {}
        }
    }

    /// Adds two unrelated types, such as "violin carrot".
    fn add_rarity(&mut self) {
        let objects = &SceneModel::get().objects;
        let [first, second] =
            [(); 2].map(|()| objects[self.rng.random_range(0..objects.len())].name.as_str());
        self.push(vec![format!("{first} {second}")], None);
    }

    fn push(&mut self, mut names: Vec<String>, category: Option<usize>) -> usize {
        if self.rng.random_bool(UPPER_CASE_RATE) {
            names[0] = names[0].to_uppercase();
        }
        let (width, height) = self.size;
        // Drawn as numbers of pixels, because later draws of the graph depend on them: existing collections
        // keep their graphs.
        let (w, h) = (self.rng.random_range(8..=width / 2), self.rng.random_range(8..=height / 2));
        let (x, y) = (self.rng.random_range(0..=width - w), self.rng.random_range(0..=height - h));
        let share = |value: u32, least: u32, most: u32| f64::from(value - least) / f64::from(most - least);
        let draws = [
            share(x, 0, width - w),
            share(y, 0, height - h),
            share(w, 8, width / 2),
            share(h, 8, height / 2),
        ];
        self.objects.push(Object { object_id: 0, names, x, y, w, h, category, draws });
        self.objects.len() - 1
    }

    /// Tries one pair; most pairs without an entry in the tables are skipped. The usual predicates of a pair
    /// of categories depend on the scene's superclass, `habits`.
    fn relate_any(&mut self, habits: usize) {
        let model = SceneModel::get();
        let [subject, object] = [(); 2].map(|()| self.rng.random_range(0..self.objects.len()));
        let (Some(from), Some(to)) = (self.objects[subject].category, self.objects[object].category) else {
            return;
        };
        if subject == object {
            return;
        }
        let predicates = match model.predicates(from, to) {
            Some(predicates) if self.rng.random_bool(0.85) => predicates,
            _ if self.rng.random_bool(0.1) => model.any_predicates(),
            _ => return,
        };
        let usual = if self.rng.random_bool(HABIT_RATE) { habits % predicates.len() } else { 0 };
        let rank = weighted(&mut self.rng, (0..predicates.len()).map(rank_weight));
        let predicate = predicates[(usual + rank) % predicates.len()].clone();
        let triple = (subject, predicate, object);
        if !self.triples.contains(&triple) {
            self.triples.push(triple);
        }
    }

    fn finish(mut self, image_id: u64) -> AnnotatedGraph {
        layout::place(&mut self.objects, &self.triples, self.size);
        let first = image_id * IDS_PER_IMAGE;
        for (object, id) in self.objects.iter_mut().zip(first..) {
            object.object_id = id;
        }
        let mut relationships = Vec::with_capacity(self.triples.len());
        for ((subject, predicate, object), relationship_id) in self.triples.into_iter().zip(first..) {
            let shouted = self.rng.random_bool(UPPER_CASE_RATE);
            relationships.push(Relationship {
                relationship_id,
                predicate: if shouted { predicate.to_uppercase() } else { predicate },
                subject_id: first + subject as u64,
                object_id: first + object as u64,
            });
        }
        AnnotatedGraph { image_id, objects: self.objects, relationships }
    }
}
