//! Reads the records of a large JSON document one at a time, without holding the document in memory.

use std::fmt;
use std::io::BufReader;
use std::marker::PhantomData;
use std::rc::Rc;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::error::Category;

use super::python_json::{MOST_RECORD_BYTES, PythonJson, Seen};
use super::raw_file::{RawFile, read_error};
use crate::{Error, Result};

/// Bytes that are corrected at a time.
const BUFFER_BYTES: usize = 1 << 15;

/// Position of the records in a document.
#[derive(Clone, Copy)]
pub enum Shape {
    /// The elements of the top-level array.
    Array,
    /// The elements of the array in this field of the top-level map.
    Field(&'static str),
    /// The values of the top-level map.
    Map,
    /// Documents of their own, one per line or one after the other.
    Lines,
}

/// Name of a record.
pub struct RecordName {
    /// Number of the record, from 1.
    pub number: usize,
    /// Its key in the map; empty in an array.
    pub key: String,
}

/// Calls `each` with every record of `file`. Errors name the line, column and record. Returns the number of NaN and infinite
/// values, which were read as null.
pub fn records<T: DeserializeOwned>(
    file: RawFile,
    shape: Shape,
    each: impl FnMut(RecordName, T) -> Result<()>,
) -> Result<u64> {
    records_up_to(MOST_RECORD_BYTES, file, shape, each)
}

/// Like [`records`], for records of at most `most_bytes`.
pub fn records_up_to<T: DeserializeOwned>(
    most_bytes: usize,
    mut file: RawFile,
    shape: Shape,
    each: impl FnMut(RecordName, T) -> Result<()>,
) -> Result<u64> {
    let path = file.path().to_path_buf();
    let (text, seen) = PythonJson::new(file.content(), most_bytes);
    let mut walk = Walk { shape, each, count: 0, stopped: None, seen: Rc::clone(&seen), record: PhantomData };
    // The parser takes single bytes.
    let mut reader = serde_json::Deserializer::from_reader(BufReader::with_capacity(BUFFER_BYTES, text));
    let result = match shape {
        Shape::Array => reader.deserialize_seq(&mut walk),
        Shape::Field(_) | Shape::Map => reader.deserialize_map(&mut walk),
        Shape::Lines => walk.lines(&mut reader),
    };
    // Reads to the end of the document: only there is the checksum of a gzip stream compared.
    let Err(error) = result.and_then(|()| reader.end()) else { return Ok(seen.replaced.get()) };
    if let Some(stopped) = walk.stopped {
        return Err(stopped);
    }
    let (line, column, count) = (error.line(), error.column(), walk.count);
    let column = seen.original_column(line, column);
    let place = match line {
        // The parser does not tell where reading failed.
        0 => format!("after {count} records"),
        _ => format!("line {line}, column {column}, after {count} records"),
    };
    let text = error.to_string();
    let problem = text.strip_suffix(&format!(" at line {line} column {}", error.column())).unwrap_or(&text);
    const OTHER: &str = "check that it is the file that the option expects";
    let (problem, remedy) = match error.classify() {
        Category::Io if seen.too_long.get() => (seen.too_long_problem(), OTHER),
        Category::Io => return Err(read_error(&path, error.into())),
        Category::Eof => (format!("truncated: {problem}"), "download it again"),
        Category::Syntax if problem.contains("unicode code point") => {
            ("not UTF-8 text".into(), "save the file in UTF-8")
        }
        Category::Syntax => {
            (format!("not JSON: {problem}"), "give a JSON file; if it was one, it is damaged")
        }
        Category::Data => {
            let problem = match seen.was_replaced(line, error.column()) {
                true => problem.replacen("invalid type: null", "invalid type: NaN or infinity", 1),
                false => problem.to_string(),
            };
            (format!("not of the expected schema: {problem}"), OTHER)
        }
    };
    Err(Error::invalid(path, place, problem, remedy))
}

/// Visitor that finds the records and passes them on.
struct Walk<T, F> {
    shape: Shape,
    each: F,
    count: usize,
    /// Error of `each`; serde's own error can only carry text.
    stopped: Option<Error>,
    seen: Rc<Seen>,
    record: PhantomData<T>,
}

impl<T, F: FnMut(RecordName, T) -> Result<()>> Walk<T, F> {
    /// Hands out documents to the end of the text.
    fn lines<'de, R: serde_json::de::Read<'de>>(
        &mut self,
        reader: &mut serde_json::Deserializer<R>,
    ) -> serde_json::Result<()>
    where
        T: DeserializeOwned,
    {
        self.seen.begin_record();
        while reader.end().is_err() {
            let record = T::deserialize(&mut *reader)?;
            self.hand_out(String::new(), record)?;
        }
        Ok(())
    }

    fn hand_out<E: serde::de::Error>(&mut self, key: String, record: T) -> std::result::Result<(), E> {
        self.count += 1;
        let name = RecordName { number: self.count, key };
        (self.each)(name, record).map_err(|error| {
            self.stopped = Some(error);
            E::custom("stopped")
        })?;
        self.seen.begin_record();
        Ok(())
    }
}

impl<'de, T: DeserializeOwned, F: FnMut(RecordName, T) -> Result<()>> Visitor<'de> for &mut Walk<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shape {
            Shape::Array => f.write_str("a list of records"),
            Shape::Field(field) => write!(f, "a map whose field `{field}` is a list of records"),
            Shape::Map => f.write_str("a map of records"),
            Shape::Lines => f.write_str("a record"),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<(), A::Error> {
        self.seen.begin_record();
        while let Some(record) = elements.next_element()? {
            self.hand_out(String::new(), record)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<(), A::Error> {
        self.seen.begin_record();
        let Shape::Field(field) = self.shape else {
            while let Some((key, record)) = entries.next_entry()? {
                self.hand_out(key, record)?;
            }
            return Ok(());
        };
        let mut found = false;
        while let Some(key) = entries.next_key::<String>()? {
            if key == field {
                found = true;
                entries.next_value_seed(&mut *self)?;
            } else {
                self.seen.begin_skipped();
                entries.next_value::<IgnoredAny>()?;
            }
            self.seen.begin_record();
        }
        if found { Ok(()) } else { Err(A::Error::missing_field(field)) }
    }
}

/// Visits the array in a field.
impl<'de, T: DeserializeOwned, F: FnMut(RecordName, T) -> Result<()>> DeserializeSeed<'de>
    for &mut Walk<T, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}
