//! Ids as public files spell them: whole numbers, and also `5001.0` and `"5001"`. Exports of data frames write -1 or nothing for
//! a missing id.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

use crate::Error as FileError;

/// Largest whole number that a double stores exactly.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads an id that must be given.
pub(super) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    optional(deserializer)?.ok_or_else(|| D::Error::custom("an id is missing or negative"))
}

/// Reads an id that may be missing: null, an empty text or a negative number.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_any(IdVisitor)
}

/// Id of a record's image, which older annotation files call `id`.
pub(super) fn of_image(path: &std::path::Path, image_id: Option<u64>, id: Option<u64>) -> crate::Result<u64> {
    image_id.or(id).ok_or_else(|| {
        let remedy = "check that it is the file that the option expects";
        FileError::invalid(path, "records", "one has no `image_id`", remedy)
    })
}

struct IdVisitor;

impl<'de> Visitor<'de> for IdVisitor {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: a whole number")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).ok())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        match value {
            v if v.is_nan() || v < 0.0 => Ok(None),
            v if v.fract() == 0.0 && v <= MOST_EXACT => Ok(Some(v as u64)),
            v => Err(E::invalid_type(Unexpected::Float(v), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if let Ok(value) = text.parse() {
            return Ok(Some(value));
        }
        match text.parse::<f64>() {
            Ok(value) => self.visit_f64(value),
            Err(_) => Err(E::invalid_type(Unexpected::Str(text), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_an_id() {
        let read = |text: &str| {
            optional(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string())
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
    }
}
