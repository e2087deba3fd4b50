//! Synthetic word vectors in GloVe's format: words with the same meaning, or of the same scenes, are close to
//! each other.
//!
//! ```text
//! vector(word) = COMMON * common + TOPIC * mean of the topics that use the word
//!                                + CATEGORY * mean of its categories + OWN * its own
//! topic: setting -> superclass -> scene -> activity, each near the one before it
//! ```
//! Every named direction is random, with length near 1, and seeded by its name, so a vector does not depend
//! on the other words. The common part makes all captions similar, as in GloVe; words without a topic ("a",
//! "with") consist mostly of it.

use std::collections::BTreeMap;

use super::captions::{ADJECTIVES, function_words};
use super::draws::seeded_normal;
use super::scene_model::SceneModel;

/// Length of the common part of a word with a topic.
const COMMON: f32 = 0.16;
/// Length of the topic part, if all uses of the word are in one scene.
const TOPIC: f32 = 0.6;
/// Length of the category part.
const CATEGORY: f32 = 0.2;
/// Length of a word's own part.
const OWN: f32 = 0.6;
/// Length of the common part of a word without a topic, and of its own part.
const FUNCTION_COMMON: f32 = 0.38;
const FUNCTION_OWN: f32 = 0.25;
/// Share of a synonym's vector that comes from the word it replaces.
const SYNONYM: f32 = 0.75;

/// Sums of directions, and their numbers.
#[derive(Clone, Default)]
struct Meaning {
    topics: Vec<f32>,
    topic_count: f32,
    categories: Vec<f32>,
    category_count: f32,
}

/// Meanings of all words, while they are collected.
struct Lexicon {
    width: usize,
    words: BTreeMap<String, Meaning>,
    /// Synonym -> the name it replaces.
    synonyms: BTreeMap<String, String>,
}

/// Vectors of every word that a collection may use: words without a topic first, then in alphabetical order.
pub fn word_vectors(width: usize) -> Vec<(String, Vec<f32>)> {
    let lexicon = Lexicon::gather(width);
    let common = seeded_normal("common", width);
    let mut vectors: Vec<(String, Vec<f32>)> = Vec::new();
    for word in function_words() {
        if !vectors.iter().any(|(known, _)| known == word) {
            let own = seeded_normal(&format!("word {word}"), width);
            vectors.push((word.into(), mix(width, &[(FUNCTION_COMMON, &common), (FUNCTION_OWN, &own)])));
        }
    }
    let without_topic = vectors.len();
    for word in lexicon.words.keys() {
        if !vectors[..without_topic].iter().any(|(known, _)| known == word) {
            vectors.push((word.clone(), lexicon.vector(word, &common)));
        }
    }
    vectors
}

impl Lexicon {
    fn gather(width: usize) -> Lexicon {
        let model = SceneModel::get();
        let mut lexicon = Lexicon { width, words: BTreeMap::new(), synonyms: BTreeMap::new() };
        for (kind, object) in model.objects.iter().enumerate() {
            let category = &model.categories[object.category].name;
            lexicon.add_category(&object.name, category);
            for synonym in &object.synonyms {
                lexicon.add_category(synonym, category);
                lexicon.synonyms.insert(synonym.clone(), object.name.clone());
            }
            if let Some(plural) = model.plural(kind) {
                lexicon.add_category(&plural, category);
                // For example "hot dogs" and "hot dog": the last words differ.
                lexicon.synonyms.insert(last_word(&plural).into(), last_word(&object.name).into());
            }
        }
        for category in &model.categories {
            for part in &category.parts {
                lexicon.add_category(part, &format!("part of {}", category.name));
            }
        }
        for predicate in model.all_predicates() {
            lexicon.add_category(predicate, "predicate");
        }
        for adjective in ADJECTIVES {
            lexicon.add_category(adjective, "adjective");
        }
        lexicon.add_topics(model);
        lexicon
    }

    fn add_topics(&mut self, model: &SceneModel) {
        let name = |kind: &usize| model.objects[*kind].name.as_str();
        let width = self.width;
        for scene in &model.scenes {
            let superclass = &model.superclasses[scene.superclass];
            let setting = seeded_normal(if superclass.outdoor { "outdoor" } else { "indoor" }, width);
            let family = seeded_normal(&format!("superclass {}", superclass.name), width);
            let family = mix(width, &[(0.4, &setting), (0.9, &family)]);
            let own = seeded_normal(&format!("scene {}", scene.name), width);
            let topic = mix(width, &[(0.6, &family), (0.8, &own)]);
            self.add_topic(&scene.name, &topic);
            scene.objects.iter().for_each(|kind| self.add_topic(name(kind), &topic));
            superclass.objects.iter().for_each(|kind| self.add_topic(name(kind), &family));
            let around = if superclass.outdoor { &model.outdoor } else { &model.indoor };
            around.iter().chain(&model.anywhere).for_each(|kind| self.add_topic(name(kind), &setting));
            for activity in &scene.activities {
                let label = format!("activity {} {}", activity.verb, name(&activity.object));
                let topic = mix(width, &[(0.65, &topic), (0.75, &seeded_normal(&label, width))]);
                for words in [activity.verb.as_str(), name(&activity.object), name(&activity.place)] {
                    self.add_topic(words, &topic);
                }
                activity.subject.iter().for_each(|kind| self.add_topic(name(kind), &topic));
                activity.words.iter().for_each(|word| self.add_topic(word, &topic));
            }
        }
    }

    fn add_topic(&mut self, words: &str, topic: &[f32]) {
        for word in words.split(' ') {
            let meaning = self.words.entry(word.into()).or_default();
            add(&mut meaning.topics, topic);
            meaning.topic_count += 1.0;
        }
    }

    fn add_category(&mut self, words: &str, category: &str) {
        let category = seeded_normal(&format!("category {category}"), self.width);
        for word in words.split(' ') {
            let meaning = self.words.entry(word.into()).or_default();
            add(&mut meaning.categories, &category);
            meaning.category_count += 1.0;
        }
    }

    fn vector(&self, word: &str, common: &[f32]) -> Vec<f32> {
        let meaning = &self.words[word];
        let own = seeded_normal(&format!("word {word}"), self.width);
        // A word with its own topic keeps its meaning, even if it is also a synonym.
        if let Some(name) = self.synonyms.get(word)
            && meaning.topic_count == 0.0
            && self.words.contains_key(name)
        {
            let named = self.vector(name, common);
            return mix(self.width, &[(SYNONYM, &named), (1.0 - SYNONYM, &own)]);
        }
        let topics = TOPIC / meaning.topic_count.max(1.0);
        let categories = CATEGORY / meaning.category_count.max(1.0);
        let parts = [
            (COMMON, common),
            (topics, &meaning.topics),
            (categories, &meaning.categories),
            (OWN, own.as_slice()),
        ];
        mix(self.width, &parts)
    }
}

fn last_word(name: &str) -> &str {
    name.rsplit(' ').next().unwrap_or(name)
}

fn add(sum: &mut Vec<f32>, term: &[f32]) {
    sum.resize(term.len(), 0.0);
    sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
}

/// Weighted sum; an empty part counts as zero.
fn mix(width: usize, parts: &[(f32, &[f32])]) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for (weight, part) in parts {
        sum.iter_mut().zip(*part).for_each(|(sum, value)| *sum += weight * value);
    }
    sum
}
