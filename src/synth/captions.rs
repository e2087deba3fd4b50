//! Five captions per image; each describes a part of what the image depicts, in varying words.
//!
//! Most describe the activity, which is one of about a dozen relationships in the scene graph; the others
//! name salient objects. Synonyms, adjectives and phrasing are noise, as in captions written by people.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt};

use super::draws::{Stream, stream, zipf};
use super::image::{Depiction, SALIENT};
use super::scene_model::{Activity, SceneModel};

/// Number of captions of an image that has any.
pub const CAPTIONS_PER_IMAGE: usize = 5;

/// Share of captions that describe the activity, if there is one.
const TELL_ACTIVITY_RATE: f64 = 0.8;
/// Share of nouns replaced by a synonym, if there is one.
const SYNONYM_RATE: f64 = 0.3;
/// Share of nouns with an adjective. Persons have none: a random adjective would be a remark about them.
const ADJECTIVE_RATE: f64 = 0.3;
/// Share of nouns in the plural, if they have one.
const PLURAL_RATE: f64 = 0.1;

/// Adjectives, which carry no information about the image.
pub(super) const ADJECTIVES: [&str; 32] = [
    "large",
    "small",
    "white",
    "black",
    "red",
    "young",
    "old",
    "blue",
    "green",
    "big",
    "little",
    "brown",
    "yellow",
    "wooden",
    "tall",
    "empty",
    "colorful",
    "long",
    "bright",
    "dark",
    "gray",
    "pink",
    "round",
    "metal",
    "nice",
    "beautiful",
    "pretty",
    "plain",
    "striped",
    "modern",
    "dirty",
    "shiny",
];
/// Words for the image itself.
const VIEWS: [&str; 6] = ["photo", "picture", "view", "image", "shot", "scene"];
const NUMBERS: [&str; 4] = ["two", "some", "three", "several"];
const SPATIAL: [&str; 6] = ["with", "near", "next to", "on", "behind", "beside"];
const LINKS: [&str; 4] = ["for", "during", "and", "while"];

/// Words without a topic in captions, in order of decreasing frequency.
pub(super) fn function_words() -> impl Iterator<Item = &'static str> {
    const OTHERS: &str = "a the in of and on with is to at an there by from up that are it this has as over for its \
        his her down out into under past left right front";
    let lists = [VIEWS.as_slice(), NUMBERS.as_slice(), SPATIAL.as_slice(), LINKS.as_slice()];
    OTHERS.split_whitespace().chain(lists.concat().into_iter().flat_map(str::split_whitespace))
}

/// Captions of image `index`.
pub fn captions(seed: u64, index: u64, depiction: &Depiction) -> [String; CAPTIONS_PER_IMAGE] {
    let mut rng = stream(seed, index, Stream::Captions);
    [(); CAPTIONS_PER_IMAGE].map(|()| caption(&mut rng, depiction))
}

fn caption(rng: &mut Xoshiro256PlusPlus, depiction: &Depiction) -> String {
    let mut text = match depiction.activity() {
        Some(activity) if rng.random_bool(TELL_ACTIVITY_RATE) => tell(rng, depiction, activity),
        _ => list(rng, depiction),
    };
    text[..1].make_ascii_uppercase();
    if rng.random_bool(0.8) {
        text.push('.');
    }
    text
}

/// "A man is throwing a frisbee to the dog in the city park for game".
fn tell(rng: &mut Xoshiro256PlusPlus, depiction: &Depiction, activity: &Activity) -> String {
    let mut text = String::new();
    let mut words = activity.words.clone();
    if rng.random_bool(0.2) {
        let word = words.swap_remove(rng.random_range(0..words.len()));
        text += &format!("{} {} of ", with_article("a", &word), zipf(rng, &VIEWS));
    }
    text += &noun_phrase(rng, depiction.subject);
    if rng.random_bool(0.4) {
        text += " is";
    }
    text += &format!(" {} {}", activity.verb, noun_phrase(rng, activity.object));
    if rng.random_bool(0.55) {
        text += &format!(" {} {}", activity.preposition, noun_phrase(rng, activity.place));
    }
    if rng.random_bool(0.3) {
        text += &format!(" in the {}", depiction.scene().name);
    } else if rng.random_bool(0.4) {
        text += &format!(" {} {}", zipf(rng, &SPATIAL), salient(rng, depiction));
    }
    if rng.random_bool(0.5) {
        text += &format!(" {} {}", zipf(rng, &LINKS), words[rng.random_range(0..words.len())]);
    }
    text
}

/// "A kitchen with a stove and a large sink".
fn list(rng: &mut Xoshiro256PlusPlus, depiction: &Depiction) -> String {
    let scene = &depiction.scene().name;
    let [first, second, third] = [(); 3].map(|()| salient(rng, depiction));
    let spatial = zipf(rng, &SPATIAL);
    match rng.random_range(0..5) {
        0 => format!("{} with {first} and {second}", with_article("a", scene)),
        1 => format!("there is {first} {spatial} {second} in the {scene}"),
        2 => format!("{first}, {second} and {third} in {}", with_article("a", scene)),
        3 => format!("a {} of {first} {spatial} {second}", zipf(rng, &VIEWS)),
        _ => format!("{} {spatial} {first} and {second}", noun_phrase(rng, depiction.subject)),
    }
}

/// A salient object, or sometimes any object in view.
fn salient(rng: &mut Xoshiro256PlusPlus, depiction: &Depiction) -> String {
    let kind = if rng.random_bool(0.8) {
        depiction.in_view[0][rng.random_range(0..SALIENT)]
    } else {
        let group = rng.random_range(1..depiction.in_view.len());
        zipf(rng, &depiction.in_view[group])
    };
    noun_phrase(rng, kind)
}

/// "a dog", "the small puppy", "two dogs".
fn noun_phrase(rng: &mut impl Rng, kind: usize) -> String {
    let model = SceneModel::get();
    let object = &model.objects[kind];
    if rng.random_bool(PLURAL_RATE)
        && let Some(plural) = model.plural(kind)
    {
        return format!("{} {plural}", zipf(rng, &NUMBERS));
    }
    let mut noun = object.name.clone();
    if !object.synonyms.is_empty() && rng.random_bool(SYNONYM_RATE) {
        noun = zipf(rng, &object.synonyms);
    }
    if rng.random_bool(ADJECTIVE_RATE) && !model.persons.contains(&kind) {
        noun = format!("{} {noun}", zipf(rng, &ADJECTIVES));
    }
    with_article(if rng.random_bool(0.75) { "a" } else { "the" }, &noun)
}

fn with_article(article: &str, noun: &str) -> String {
    let an = article == "a" && noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { article })
}
