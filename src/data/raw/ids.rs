//! Ids as public files spell them: whole numbers, and also `5001.0` and `"5001"`. Exports of data frames write -1, NaN or nothing
//! for a missing id.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Error as FileError;

/// Largest whole number that a double stores exactly.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// How the ids of raw files are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spellings {
    /// Ids spelled as a text or with a fraction, such as `"5001"` or `5001.0`.
    pub respelled_ids: u64,
    /// Placeholders of missing ids: negative numbers and empty texts.
    pub placeholder_ids: u64,
    /// NaN and infinities in place of an id or a number, which count as missing.
    pub not_finite: u64,
}

impl Spellings {
    /// Counts an id and returns its value.
    pub(super) fn count(&mut self, id: Id) -> Option<u64> {
        match id.spelling {
            Spelling::Plain => {}
            Spelling::Other => self.respelled_ids += 1,
            Spelling::Placeholder => self.placeholder_ids += 1,
        }
        id.value
    }

    /// Like [`Spellings::count`], for an id that was checked to be given.
    pub(super) fn count_required(&mut self, id: Id) -> u64 {
        self.count(id).expect("checked when it was read")
    }

    /// Adds the counts of another file.
    pub(crate) fn add(&mut self, other: Spellings) {
        self.respelled_ids += other.respelled_ids;
        self.placeholder_ids += other.placeholder_ids;
        self.not_finite += other.not_finite;
    }
}

/// An id as read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Id {
    /// Value; `None` if it is missing.
    pub value: Option<u64>,
    spelling: Spelling,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Spelling {
    /// A whole number, or null.
    #[default]
    Plain,
    /// Another spelling of a whole number.
    Other,
    /// A value that stands for a missing id.
    Placeholder,
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

/// Reads an id that must be given.
pub(super) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
    let id = Id::deserialize(deserializer)?;
    match id.value {
        Some(_) => Ok(id),
        None => Err(D::Error::custom("an id is missing or negative")),
    }
}

/// Reads an id that is a text, or a whole number in its place.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an id: a text or a whole number")]
    enum Text {
        Text(String),
        Number(u64),
    }
    Ok(match Text::deserialize(deserializer)? {
        Text::Text(text) => text,
        Text::Number(number) => number.to_string(),
    })
}

/// Id of a record's image, which older annotation files call `id`. The record's number is for the message.
pub(super) fn of_image(
    path: &std::path::Path,
    record: usize,
    [image_id, id]: [Id; 2],
    spellings: &mut Spellings,
) -> crate::Result<u64> {
    let image_id = spellings.count(image_id);
    image_id.or_else(|| spellings.count(id)).ok_or_else(|| {
        let remedy = "check that it is the file that the option expects";
        FileError::invalid(path, format!("record {record}"), "it has no `image_id`", remedy)
    })
}

impl std::str::FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let spelled = |value| Ok(Id { value, spelling: Spelling::Other });
        let missing = Ok(Id { value: None, spelling: Spelling::Placeholder });
        if text.is_empty() {
            return missing;
        }
        if let Ok(value) = text.parse() {
            return spelled(Some(value));
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_nan() || value < 0.0 => missing,
            Ok(value) if is_whole(value) => spelled(Some(value as u64)),
            _ => Err(()),
        }
    }
}

fn is_whole(value: f64) -> bool {
    value.fract() == 0.0 && (0.0..=MOST_EXACT).contains(&value)
}

struct IdVisitor;

impl<'de> Visitor<'de> for IdVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: a whole number")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Id, E> {
        Ok(Id { value: Some(value), spelling: Spelling::Plain })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Id, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Ok(Id { value: None, spelling: Spelling::Placeholder }),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Id, E> {
        match value {
            v if v < 0.0 => Ok(Id { value: None, spelling: Spelling::Placeholder }),
            v if is_whole(v) => Ok(Id { value: Some(v as u64), spelling: Spelling::Other }),
            v => Err(E::invalid_type(Unexpected::Float(v), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
        text.parse().map_err(|()| E::invalid_type(Unexpected::Str(text), &self))
    }

    fn visit_unit<E: Error>(self) -> Result<Id, E> {
        Ok(Id::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_an_id() {
        let mut spellings = Spellings::default();
        let mut read = |text: &str| {
            let id: Result<Id, _> = serde_json::from_str(text);
            id.map(|id| spellings.count(id)).map_err(|error| error.to_string())
        };
        for text in ["5001", "5001.0", "\"5001\"", "\" 5001 \"", "\"5001.0\"", "5.001e3"] {
            assert_eq!(read(text).unwrap(), Some(5001), "{text}");
        }
        assert_eq!(read("18446744073709551615").unwrap(), Some(u64::MAX));
        for text in ["-1", "-1.0", "\"-1\"", "null", "\"\"", "\"nan\""] {
            assert_eq!(read(text).unwrap(), None, "{text}");
            assert!(required(&mut serde_json::Deserializer::from_str(text)).is_err(), "{text}");
        }
        for text in ["1.5", "\"five\"", "true", "[1]", "1e300"] {
            read(text).unwrap_err();
        }
        assert_eq!(spellings, Spellings { respelled_ids: 5, placeholder_ids: 5, not_finite: 0 });
        let read = |json: &str| text(&mut serde_json::Deserializer::from_str(json));
        assert_eq!([read("\"12\"").unwrap(), read("12").unwrap()], ["12", "12"]);
        assert!(read("null").unwrap_err().to_string().contains("an id: a text or a whole number"));
    }
}
