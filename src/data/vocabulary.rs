//! Names of the object and predicate types, and how a written name becomes one of them.
//!
//! A data file has a vocabulary, and a checkpoint has a copy: a model can then read graphs of names without its data.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::contents::{IMAGE, IN_IMAGE};
use super::words::Tokeniser;
use crate::terminal::cut;

/// Names of all types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct Vocabulary {
    tokeniser: Tokeniser,
    objects: Types,
    predicates: Types,
}

/// How names are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
    /// In lower case, without white space at either end.
    #[default]
    TrimmedLowerCase,
}

impl Normalisation {
    /// The form of `name` in which names are compared.
    pub fn apply(self, name: &str) -> String {
        match self {
            Normalisation::TrimmedLowerCase => name.trim().to_lowercase(),
        }
    }
}

/// Names of one kind of types, and the type of each name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Types {
    names: Vec<String>,
    by_name: HashMap<String, u32>,
}

/// A vocabulary as JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Stored {
    normalisation: Normalisation,
    tokeniser: Tokeniser,
    objects: Vec<String>,
    predicates: Vec<String>,
}

impl From<Vocabulary> for Stored {
    fn from(vocabulary: Vocabulary) -> Self {
        Stored {
            normalisation: Normalisation::default(),
            tokeniser: vocabulary.tokeniser,
            objects: vocabulary.objects.names,
            predicates: vocabulary.predicates.names,
        }
    }
}

impl TryFrom<Stored> for Vocabulary {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        Vocabulary::new(stored.objects, stored.predicates, stored.tokeniser)
    }
}

impl Types {
    fn new(kind: &str, names: Vec<String>, last_name: &str) -> Result<Self, String> {
        let Some((last, annotated)) = names.split_last() else { return Err(format!("no {kind} type")) };
        if last != last_name {
            return Err(format!("the last {kind} type is not the image's"));
        }
        let mut by_name = HashMap::with_capacity(names.len());
        for (name, index) in annotated.iter().zip(0..) {
            if by_name.insert(name.clone(), index).is_some() {
                return Err(format!("two {kind} types are called `{name}`"));
            }
        }
        // The last type may repeat the name of an annotated type, which then keeps it.
        by_name.entry(last.clone()).or_insert(annotated.len() as u32);
        Ok(Types { names, by_name })
    }
}

impl Vocabulary {
    /// Vocabulary of these names, of which the last are those of the image node and of its edges. `tokeniser` divides names into
    /// words.
    pub fn new(objects: Vec<String>, predicates: Vec<String>, tokeniser: Tokeniser) -> Result<Self, String> {
        let objects = Types::new("object", objects, IMAGE)?;
        let predicates = Types::new("predicate", predicates, IN_IMAGE)?;
        Ok(Vocabulary { tokeniser, objects, predicates })
    }

    /// Division of names and captions into words.
    pub fn tokeniser(&self) -> Tokeniser {
        self.tokeniser
    }

    /// `[object types]` names, the last one being that of the image node.
    pub fn objects(&self) -> &[String] {
        &self.objects.names
    }

    /// `[predicate types]` names, the last one being that of the edges to the image node.
    pub fn predicates(&self) -> &[String] {
        &self.predicates.names
    }

    /// Object type with this normalised name; an annotated type takes precedence over that of the image node.
    pub fn find_object(&self, name: &str) -> Option<u32> {
        self.objects.by_name.get(name).copied()
    }

    /// Predicate type with this normalised name; an annotated type takes precedence over that of the edges to the image
    /// node.
    pub fn find_predicate(&self, name: &str) -> Option<u32> {
        self.predicates.by_name.get(name).copied()
    }

    /// Names of the object types, without that of the image node.
    pub fn annotated_objects(&self) -> &[String] {
        &self.objects.names[..self.image_type() as usize]
    }

    /// Names of the predicate types, without that of the edges to the image node.
    pub fn annotated_predicates(&self) -> &[String] {
        &self.predicates.names[..self.in_image_type() as usize]
    }

    /// Like [`Vocabulary::find_object`], without the type of the image node.
    pub fn find_annotated_object(&self, name: &str) -> Option<u32> {
        self.find_object(name).filter(|&object| object < self.image_type())
    }

    /// Like [`Vocabulary::find_predicate`], without the type of the edges to the image node.
    pub fn find_annotated_predicate(&self, name: &str) -> Option<u32> {
        self.find_predicate(name).filter(|&predicate| predicate < self.in_image_type())
    }

    /// A few names of objects, for messages.
    pub fn some_objects(&self) -> String {
        let objects = self.annotated_objects();
        cut(&objects[..objects.len().min(5)].join(", "), 60)
    }

    /// Form of `name` in which it is looked up.
    pub fn normalised(&self, name: &str) -> String {
        Normalisation::default().apply(name)
    }

    /// Type of the image node.
    pub fn image_type(&self) -> u32 {
        self.objects.names.len() as u32 - 1
    }

    /// Type of the edges to the image node.
    pub fn in_image_type(&self) -> u32 {
        self.predicates.names.len() as u32 - 1
    }

    /// Whether both have the same types in the same order.
    pub fn has_types_of(&self, other: &Vocabulary) -> bool {
        self.objects.names == other.objects.names && self.predicates.names == other.predicates.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn json_gives_the_vocabulary_back_and_is_checked() {
        let objects = names(&["man", "image", "image"]);
        let vocabulary = Vocabulary::new(objects, names(&["on", "in image"]), Tokeniser::Unicode).unwrap();
        let json = serde_json::to_string(&vocabulary).unwrap();
        assert_eq!(serde_json::from_str::<Vocabulary>(&json).unwrap(), vocabulary);
        // An annotated type keeps its name.
        assert_eq!((vocabulary.find_object("image"), vocabulary.image_type()), (Some(1), 2));
        assert_eq!(vocabulary.normalised(" Man\t"), "man");
        for (damaged, problem) in [
            (json.replace("\"man\",\"image\"", "\"man\",\"man\""), "two object types are called `man`"),
            (json.replace("in image", "on image"), "the last predicate type is not the image's"),
            (json.replace("trimmed-lower-case", "stemmed"), "unknown variant"),
        ] {
            let error = serde_json::from_str::<Vocabulary>(&damaged).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
