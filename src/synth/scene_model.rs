//! The world from which synthetic images are drawn: object types by category, scenes by superclass, the
//! activities of each scene, and the predicates that fit a pair of categories.
//!
//! The world is fixed, whatever the seed, and read from three tables beside this file (`objects.txt`,
//! `scenes.txt`, `predicates.txt`). A seed selects images, not meanings, so a model trained on one collection
//! can be tested on another.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::draws::seeded_normal;

/// Category of a compound such as "pencil case" whose last word is not in the tables.
const FALLBACK_CATEGORY: &str = "tool";
/// Standard deviation of the scenes' log frequencies, so that some scenes are a few times as frequent as
/// others.
const SCENE_LOG_SPREAD: f32 = 0.5;

/// Categories whose names take a plural "s".
const COUNTABLE: [&str; 5] = ["animal", "vehicle", "furniture", "container", "gear"];
/// Names in these categories that do not.
const UNCOUNTABLE: [&str; 14] = [
    "sheep",
    "goose",
    "deer",
    "fish",
    "cow",
    "ski",
    "butterfly",
    "monkey",
    "pony",
    "luggage",
    "football",
    "basketball",
    "glass",
    "bench",
];

/// A type of object.
#[derive(Debug)]
pub struct ObjectType {
    /// Name in scene graphs, such as `tennis racket`.
    pub name: String,
    /// Index into [`SceneModel::categories`].
    pub category: usize,
    /// Synonyms, used in captions.
    pub synonyms: Vec<String>,
}

/// A group of object types that take the same predicates.
#[derive(Debug)]
pub struct Category {
    /// Name of the category, such as `vehicle`.
    pub name: String,
    /// Parts of its objects, such as `wheel`.
    pub parts: Vec<String>,
}

/// An activity in an image: one relationship that the captions describe, and a place for it.
#[derive(Debug)]
pub struct Activity {
    /// Object type of the actor; `None` for any person.
    pub subject: Option<usize>,
    /// Verb of the activity, a predicate.
    pub verb: String,
    /// Object type that is acted on.
    pub object: usize,
    /// Predicate that connects the subject to `place`.
    pub preposition: String,
    /// Object type at or with which the activity takes place.
    pub place: usize,
    /// Words that only captions of this activity use.
    pub words: Vec<String>,
}

/// A kind of scene, such as `kitchen`.
#[derive(Debug)]
pub struct Scene {
    /// Name in captions.
    pub name: String,
    /// Index into [`SceneModel::superclasses`].
    pub superclass: usize,
    /// Object types of this scene, in order of decreasing frequency.
    pub objects: Vec<usize>,
    /// Possible activities.
    pub activities: Vec<Activity>,
    /// Relative frequency.
    pub weight: f64,
}

/// A family of similar scenes, such as `home`.
#[derive(Debug)]
pub struct Superclass {
    /// Name of the family.
    pub name: String,
    /// Whether its scenes are outdoors.
    pub outdoor: bool,
    /// Object types of all its scenes, in order of decreasing frequency.
    pub objects: Vec<usize>,
}

/// The whole world.
#[derive(Debug)]
pub struct SceneModel {
    /// Object types.
    pub objects: Vec<ObjectType>,
    /// Categories of object types.
    pub categories: Vec<Category>,
    /// Families of scenes.
    pub superclasses: Vec<Superclass>,
    /// Kinds of scenes.
    pub scenes: Vec<Scene>,
    /// Object types that occur everywhere.
    pub anywhere: Vec<usize>,
    /// Object types that occur indoors.
    pub indoor: Vec<usize>,
    /// Object types that occur outdoors.
    pub outdoor: Vec<usize>,
    /// Object types of persons, used for `anyone` in an activity.
    pub persons: Vec<usize>,
    /// Predicates by (subject category, object category), in order of decreasing frequency.
    predicates: HashMap<(usize, usize), Vec<String>>,
    /// Predicates that fit any pair.
    any_predicates: Vec<String>,
}

impl SceneModel {
    /// The world, read once.
    pub fn get() -> &'static SceneModel {
        static MODEL: LazyLock<SceneModel> = LazyLock::new(SceneModel::read);
        &MODEL
    }

    /// Predicates specific to this pair of categories; `None` if only the general ones fit.
    pub fn predicates(&self, subject: usize, object: usize) -> Option<&[String]> {
        self.predicates.get(&(subject, object)).map(Vec::as_slice)
    }

    /// Predicates that fit any pair, in order of decreasing frequency.
    pub fn any_predicates(&self) -> &[String] {
        &self.any_predicates
    }

    /// Every predicate in the tables, including verbs of activities; some occur several times.
    pub fn all_predicates(&self) -> impl Iterator<Item = &str> {
        let activities = self.scenes.iter().flat_map(|scene| &scene.activities);
        let of_activities = activities.flat_map(|a| [a.verb.as_str(), a.preposition.as_str()]);
        let of_pairs = self.predicates.values().flatten().chain(&self.any_predicates).map(String::as_str);
        of_pairs.chain(of_activities)
    }

    /// Regular plural of the name, such as "cars" for "car", if it has one.
    pub fn plural(&self, kind: usize) -> Option<String> {
        let object = &self.objects[kind];
        let countable = COUNTABLE.contains(&self.categories[object.category].name.as_str());
        let irregular =
            UNCOUNTABLE.contains(&object.name.as_str()) || object.name.ends_with(['s', 'h', 'x', 'y', 'f']);
        (countable && !irregular).then(|| format!("{}s", object.name))
    }

    fn read() -> SceneModel {
        let mut model = SceneModel {
            objects: Vec::new(),
            categories: Vec::new(),
            superclasses: Vec::new(),
            scenes: Vec::new(),
            anywhere: Vec::new(),
            indoor: Vec::new(),
            outdoor: Vec::new(),
            persons: Vec::new(),
            predicates: HashMap::new(),
            any_predicates: Vec::new(),
        };
        let mut types = Types::default();
        model.read_objects(&mut types);
        model.read_scenes(&mut types);
        model.read_predicates();
        model
    }

    fn read_objects(&mut self, types: &mut Types) {
        for line in rows(include_str!("objects.txt")) {
            let (name, members) = split(line, ':');
            if name.is_empty() {
                let category = self.categories.last_mut().expect("a category before its parts");
                category.parts = names(members);
                continue;
            }
            let category = self.categories.len();
            self.categories.push(Category { name: name.to_string(), parts: Vec::new() });
            for member in members.split_whitespace() {
                let mut words = names(&member.replace('=', " "));
                let name = words.remove(0);
                types.by_name.insert(name.clone(), self.objects.len());
                self.objects.push(ObjectType { name, category, synonyms: words });
            }
        }
        let person = self.category("person");
        self.persons = (0..self.objects.len()).filter(|&o| self.objects[o].category == person).collect();
        types.fallback_category = self.category(FALLBACK_CATEGORY);
    }

    fn read_scenes(&mut self, types: &mut Types) {
        for line in rows(include_str!("scenes.txt")) {
            if let Some(activity) = line.strip_prefix("- ") {
                let activity = self.activity(activity, types);
                self.scenes.last_mut().expect("a scene before its activities").activities.push(activity);
                continue;
            }
            let (head, members) = split(line, ':');
            let members = names(members).into_iter().map(|name| types.find_or_add(&name, &mut self.objects));
            let objects: Vec<usize> = members.collect();
            match head {
                "anywhere" => self.anywhere = objects,
                "indoor" => self.indoor = objects,
                "outdoor" => self.outdoor = objects,
                _ => match head.split_once(" (") {
                    Some((name, setting)) => self.superclasses.push(Superclass {
                        name: name.to_string(),
                        outdoor: setting == "outdoor)",
                        objects,
                    }),
                    None => {
                        let name = head.trim_end_matches("_scene").replace('_', " ");
                        let weight =
                            (SCENE_LOG_SPREAD * seeded_normal(&format!("weight {name}"), 1)[0]).exp();
                        let superclass = self.superclasses.len() - 1;
                        let activities = Vec::new();
                        self.scenes.push(Scene {
                            name,
                            superclass,
                            objects,
                            activities,
                            weight: weight.into(),
                        });
                    }
                },
            }
        }
    }

    /// Parses an activity: `subject verb object preposition place ; words`.
    fn activity(&mut self, line: &str, types: &mut Types) -> Activity {
        let (sentence, words) = split(line, ';');
        let [subject, verb, object, preposition, place] = &names(sentence)[..] else {
            panic!("scenes.txt: five words before `;` in {line:?}");
        };
        let mut object_type = |name: &str| types.find_or_add(name, &mut self.objects);
        Activity {
            subject: (subject != "anyone").then(|| object_type(subject)),
            verb: verb.clone(),
            object: object_type(object),
            preposition: preposition.clone(),
            place: object_type(place),
            words: names(words),
        }
    }

    fn read_predicates(&mut self) {
        for line in rows(include_str!("predicates.txt")) {
            let (pair, predicates) = split(line, ':');
            match pair.split_once(' ').expect("two categories") {
                ("any", "any") => self.any_predicates = names(predicates),
                (subject, object) => {
                    let pair = (self.category(subject), self.category(object));
                    self.predicates.insert(pair, names(predicates));
                }
            }
        }
    }

    fn category(&self, name: &str) -> usize {
        let found = self.categories.iter().position(|category| category.name == name);
        found.unwrap_or_else(|| panic!("objects.txt has no category {name:?}"))
    }
}

/// Object types by name, while the tables are read.
#[derive(Default)]
struct Types {
    by_name: HashMap<String, usize>,
    fallback_category: usize,
}

impl Types {
    /// A name that is missing in `objects.txt` is a compound; its last word determines the category.
    fn find_or_add(&mut self, name: &str, objects: &mut Vec<ObjectType>) -> usize {
        if let Some(&found) = self.by_name.get(name) {
            return found;
        }
        let last_word = name.rsplit(' ').next().unwrap_or(name);
        let category = self.by_name.get(last_word).map_or(self.fallback_category, |&o| objects[o].category);
        objects.push(ObjectType { name: name.to_string(), category, synonyms: Vec::new() });
        self.by_name.insert(name.to_string(), objects.len() - 1);
        objects.len() - 1
    }
}

/// Lines of a table that are neither empty nor comments.
fn rows(table: &str) -> impl Iterator<Item = &str> {
    table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn split(line: &str, separator: char) -> (&str, &str) {
    let (before, after) = line.split_once(separator).unwrap_or_else(|| panic!("{separator:?} in {line:?}"));
    (before.trim(), after.trim())
}

/// Names separated by blanks; `_` stands for a blank within a name.
fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(|name| name.replace('_', " ")).collect()
}
