//! Queries as sentences: the objects and predicates of a vocabulary that a text names.
//!
//! The longest name that matches is taken, word by word from the left: first as it is written, then by stems, so that "men" is
//! `man` and "rides" is `riding`. Predicates between two neighbouring objects relate them. Articles, pronouns and forms of "to be"
//! are passed over; all other words are reported.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use rust_stemmers::{Algorithm, Stemmer};

use super::query_graph::{QueryGraph, Statement};
use super::vocabulary::Vocabulary;

/// Irregular forms of nouns and verbs, each with its base, which no stemmer finds.
static IRREGULAR: LazyLock<HashMap<&str, &str>> =
    LazyLock::new(|| include_str!("irregular.txt").lines().filter_map(|line| line.split_once(' ')).collect());

/// Words that name nothing and relate nothing. A vocabulary may still have a name of them, such as `of` or `are on`.
static FUNCTION_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "a an the this that these those some any and or of to there it its he his him she her they their them who which what where \
     while as is are was were be been being am has have had do does image picture photo show shows showing"
        .split(' ')
        .collect()
});

/// Forms of "to be", which a name may have where a sentence has none.
const TO_BE: [&str; 7] = ["is", "are", "was", "were", "be", "been", "being"];

/// Words after which a name means the object that was already mentioned.
const DEFINITE: [&str; 5] = ["the", "this", "that", "these", "those"];

/// Types of a name.
#[derive(Clone, Copy, Default)]
struct Entry {
    object: Option<u32>,
    predicate: Option<u32>,
}

/// Names of a vocabulary by their words.
pub struct Lexicon<'a> {
    vocabulary: &'a Vocabulary,
    stemmer: Stemmer,
    by_words: HashMap<Vec<String>, Entry>,
    by_stems: HashMap<Vec<String>, Entry>,
    /// Largest number of words of a name.
    longest: usize,
}

/// The graph that a sentence describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentence {
    /// Named objects and their relationships.
    pub graph: QueryGraph,
    /// Words that name nothing, and predicates without an object on either side, in the order of the text.
    pub not_understood: Vec<String>,
}

impl Sentence {
    /// Statements of the graph: its relationships, and the objects without one.
    pub fn statements(&self, vocabulary: &Vocabulary) -> Vec<Statement> {
        let related: HashSet<u32> =
            self.graph.relationships.iter().flat_map(|&(subject, _, object)| [subject, object]).collect();
        let mut statements = self.graph.statements(vocabulary);
        let relationships = statements.split_off(self.graph.names.len());
        let lone = statements.into_iter().zip(0..).filter(|(_, node)| !related.contains(node));
        relationships.into_iter().chain(lone.map(|(statement, _)| statement)).collect()
    }

    /// Lines that tell what was understood, as a graph for `search --graph`, and what was not.
    pub fn text(&self, vocabulary: &Vocabulary) -> String {
        let graph = serde_json::to_string(&self.statements(vocabulary)).expect("plain fields");
        let mut text = format!("graph: {}\n", graph.replace("\",\"", "\", \"").replace("],[", "], ["));
        if !self.not_understood.is_empty() {
            text.push_str(&format!("not understood: {}\n", self.not_understood.join(", ")));
        }
        text
    }
}

impl<'a> Lexicon<'a> {
    /// Lexicon of a vocabulary, without the types of the image node and its edges.
    pub fn new(vocabulary: &'a Vocabulary) -> Self {
        let mut lexicon = Lexicon {
            vocabulary,
            stemmer: Stemmer::create(Algorithm::English),
            by_words: HashMap::new(),
            by_stems: HashMap::new(),
            longest: 1,
        };
        // The first of several names with the same stems is the most frequent one. A name with a form of "to be" also enters without
        // that word, after all others.
        for without_to_be in [false, true] {
            for (name, object) in vocabulary.annotated_objects().iter().zip(0..) {
                lexicon.add(name, without_to_be, |entry| &mut entry.object, object);
            }
            for (name, predicate) in vocabulary.annotated_predicates().iter().zip(0..) {
                lexicon.add(name, without_to_be, |entry| &mut entry.predicate, predicate);
            }
        }
        lexicon
    }

    fn add(
        &mut self,
        name: &str,
        without_to_be: bool,
        place: impl Fn(&mut Entry) -> &mut Option<u32>,
        of: u32,
    ) {
        let mut words = self.vocabulary.tokeniser().words(name);
        if without_to_be {
            words.retain(|word| !TO_BE.contains(&word.as_str()));
        }
        if words.is_empty() {
            return;
        }
        self.longest = self.longest.max(words.len());
        let stems = words.iter().map(|word| self.stem(word)).collect();
        if !without_to_be {
            place(self.by_words.entry(words).or_default()).get_or_insert(of);
        }
        place(self.by_stems.entry(stems).or_default()).get_or_insert(of);
    }

    fn stem(&self, word: &str) -> String {
        let word = IRREGULAR.get(word).copied().unwrap_or(word);
        self.stemmer.stem(word).into_owned()
    }

    /// The longest name at the beginning of `words`, and the number of its words.
    fn longest_match(&self, words: &[String], stems: &[String]) -> Option<(Entry, usize)> {
        (1..=self.longest.min(words.len())).rev().find_map(|count| {
            let exact = self.by_words.get(&words[..count]);
            Some((*exact.or_else(|| self.by_stems.get(&stems[..count]))?, count))
        })
    }

    /// The graph that `text` describes; without objects if it names none.
    pub fn understand(&self, text: &str) -> Sentence {
        let words = self.vocabulary.tokeniser().words(text);
        let stems: Vec<String> = words.iter().map(|word| self.stem(word)).collect();
        let mut sentence = Sentence::default();
        let mut counts: HashMap<u32, u32> = HashMap::new();
        // Latest node of each type.
        let mut latest: HashMap<u32, u32> = HashMap::new();
        let mut last = None;
        // Predicates since the last object, each with its place and its words.
        let mut between: Vec<(u32, (usize, String))> = Vec::new();
        // Words that are not used, by their place in the text.
        let mut unused: Vec<(usize, String)> = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let Some((entry, count)) = self.longest_match(&words[at..], &stems[at..]) else {
                unused.push((at, words[at].clone()));
                at += 1;
                continue;
            };
            let expects_predicate = last.is_some() && between.is_empty();
            match entry {
                Entry { object: Some(object), predicate } if predicate.is_none() || !expects_predicate => {
                    let is_definite = at > 0 && DEFINITE.contains(&words[at - 1].as_str());
                    let known = latest.get(&object).copied().filter(|_| is_definite);
                    let node = known
                        .unwrap_or_else(|| sentence.graph.add_object(object, &mut counts, self.vocabulary));
                    latest.insert(object, node);
                    match last {
                        Some(subject) => {
                            let stated = between.drain(..).map(|(predicate, _)| (subject, predicate, node));
                            sentence.graph.relationships.extend(stated);
                        }
                        None => unused.extend(between.drain(..).map(|(_, place)| place)),
                    }
                    last = Some(node);
                }
                Entry { predicate: Some(predicate), .. } => {
                    between.push((predicate, (at, words[at..at + count].join(" "))));
                }
                Entry { .. } => unreachable!("an entry has a type"),
            }
            at += count;
        }
        unused.extend(between.into_iter().map(|(_, place)| place));
        // A function word may be a predicate of the vocabulary, such as `of`.
        unused.retain(|(_, written)| !FUNCTION_WORDS.contains(written.as_str()));
        unused.sort();
        let mut seen = HashSet::new();
        let unused = unused.into_iter().map(|(_, word)| word).filter(|word| seen.insert(word.clone()));
        sentence.not_understood = unused.collect();
        let mut stated = HashSet::new();
        sentence.graph.relationships.retain(|&relationship| stated.insert(relationship));
        sentence
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::Tokeniser;
    use super::*;

    #[test]
    fn sentences_become_graphs_of_the_vocabulary() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let objects = [
            "man",
            "tennis",
            "tennis player",
            "player",
            "horse",
            "beach",
            "dog",
            "park",
            "people",
            "person",
            "image",
        ];
        let predicates = ["riding", "on", "in", "in front of", "parked", "is near", "wearing", "in image"];
        let vocabulary = Vocabulary::new(names(&objects), names(&predicates), Tokeniser::Unicode).unwrap();
        let lexicon = Lexicon::new(&vocabulary);
        for (text, graph, not_understood) in [
            (
                "A man riding a horse on the beach.",
                r#"[["man","riding","horse"],["horse","on","beach"]]"#,
                "",
            ),
            // Inflected forms, regular and irregular.
            ("Two men rode horses", r#"[["man","riding","horse"]]"#, "two"),
            // The longest name; a name as it is written before one by its stem.
            ("tennis players in front of people", r#"[["tennis player","in front of","people"]]"#, ""),
            // A stem of both kinds: a predicate only behind an object.
            (
                "a dog parks in front of the park",
                r#"[["dog","parked","park"],["dog","in front of","park"]]"#,
                "",
            ),
            // Two of a type, unless the text speaks of the same one.
            (
                "a dog near a dog; the dog on a beach",
                r#"[["dog","is near","dog#2"],["dog#2","on","beach"]]"#,
                "",
            ),
            ("riding a brown horse", r#"[["horse"]]"#, "riding, brown"),
            ("a zebra wearing", "[]", "zebra, wearing"),
            ("a picture of a man, a dog", r#"[["man"],["dog"]]"#, ""),
            ("", "[]", ""),
        ] {
            let sentence = lexicon.understand(text);
            assert_eq!(serde_json::to_string(&sentence.statements(&vocabulary)).unwrap(), graph, "{text}");
            assert_eq!(sentence.not_understood.join(", "), not_understood, "{text}");
            if !sentence.graph.objects.is_empty() {
                // The statements are a query for the same graph, up to the order of the objects.
                let query = QueryGraph::new(&sentence.statements(&vocabulary), &vocabulary).unwrap();
                assert_eq!(query.relationships.len(), sentence.graph.relationships.len(), "{text}");
            }
        }
        let text = lexicon.understand("a young man riding a horse").text(&vocabulary);
        assert_eq!(text, "graph: [[\"man\", \"riding\", \"horse\"]]\nnot understood: young\n");
    }
}
