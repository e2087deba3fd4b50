//! GloVe's text format: one word and its vector per line, with or without a word2vec header `count width`.

use std::collections::{HashMap, HashSet};
use std::io::BufRead;
use std::ops::RangeInclusive;
use std::path::Path;

use super::raw_file::{RawFile, read_error};
use crate::{Error, Result};

/// Vectors of the requested words.
#[derive(Debug)]
pub struct WordVectors {
    width: usize,
    vectors: HashMap<String, Vec<f32>>,
    lines: u64,
}

impl WordVectors {
    /// Reads `path`, keeping the vectors of `wanted` words only.
    ///
    /// The first line sets the width. A word may contain spaces: the last `width` fields are the numbers. If
    /// a word occurs twice, the first vector counts.
    pub fn read(path: &Path, wanted: &HashSet<String>) -> Result<Self> {
        let mut file = RawFile::open(path)?;
        let mut words = WordVectors { width: 0, vectors: HashMap::new(), lines: 0 };
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            let count =
                file.content().read_until(b'\n', &mut line).map_err(|error| read_error(path, &error))?;
            if count == 0 {
                break;
            }
            words.add(&line, wanted).map_err(|Wrong { problem, remedy }| {
                Error::invalid(path, format!("line {number}"), problem, remedy)
            })?;
        }
        if words.lines == 0 {
            return Err(Error::invalid(path, "file", "no word vectors", REMEDY));
        }
        Ok(words)
    }

    fn add(&mut self, line: &[u8], wanted: &HashSet<String>) -> std::result::Result<(), Wrong> {
        let fields: Vec<&[u8]> =
            line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).collect();
        if fields.is_empty() {
            return Ok(());
        }
        if self.width == 0 {
            if let [count, width] = fields[..]
                && let (Some(_), Some(width)) = (parse::<u64>(count), parse::<usize>(width))
            {
                if !(1..=MOST_WIDTH).contains(&width) {
                    return Err(Wrong::format(format!("vectors of {width} numbers, of 1 to {MOST_WIDTH}")));
                }
                self.width = width;
                return Ok(());
            }
            self.width = fields.len() - 1;
        }
        let width = self.width;
        if width == 0 {
            return Err(Wrong::format("a word without numbers"));
        }
        // A word of white space alone, which is never requested.
        if fields.len() == width && line.first().is_some_and(u8::is_ascii_whitespace) {
            self.lines += 1;
            return Ok(());
        }
        if fields.len() < width + 1 {
            let count = fields.len() - 1;
            return Err(Wrong::format(format!("{count} numbers, where the first line has {width}")));
        }
        let (word, numbers) = fields.split_at(fields.len() - width);
        // Several fields whose last one is a number: the vector is too long.
        if let [_, .., last] = word
            && parse::<f32>(last).is_some_and(f32::is_finite)
        {
            return Err(Wrong::format(format!("more than the {width} numbers of the first line")));
        }
        self.lines += 1;
        // A word with spaces is never requested.
        let [word] = word else { return Ok(()) };
        let word = String::from_utf8_lossy(word);
        if !wanted.contains(word.as_ref()) || self.vectors.contains_key(word.as_ref()) {
            return Ok(());
        }
        let mut vector = Vec::with_capacity(width);
        for field in numbers {
            let value = parse::<f64>(field).filter(|value| value.is_finite());
            let text = String::from_utf8_lossy(field);
            vector.push(value.ok_or_else(|| Wrong::format(format!("`{text}` is not a finite number")))?);
        }
        // A zero vector has no direction, but does no harm.
        let length = vector.iter().fold(0.0f64, |length, value| length.hypot(*value));
        if length != 0.0 && !LENGTHS.contains(&length) {
            return Err(Wrong {
                problem: format!("the vector of `{word}` has the length {length:e}, outside 1e-6 to 1e6"),
                remedy: "scale the vectors, such as to lengths near 1",
            });
        }
        let vector = vector.into_iter().map(|value| value as f32).collect();
        self.vectors.insert(word.into_owned(), vector);
        Ok(())
    }

    /// Width of the vectors.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of words in the file.
    pub fn file_words(&self) -> u64 {
        self.lines
    }

    /// Number of requested words that were found.
    pub fn found(&self) -> usize {
        self.vectors.len()
    }

    /// Vector of `word`.
    pub fn get(&self, word: &str) -> Option<&[f32]> {
        self.vectors.get(word).map(Vec::as_slice)
    }

    /// Mean vector of the known words among `words`; `None` if none is known.
    pub fn mean(&self, words: impl Iterator<Item = String>) -> Option<Vec<f32>> {
        let mut sum = vec![0.0f32; self.width];
        let mut count = 0;
        for word in words {
            if let Some(vector) = self.get(&word) {
                sum.iter_mut().zip(vector).for_each(|(total, value)| *total += value);
                count += 1;
            }
        }
        (count > 0).then(|| sum.iter().map(|total| total / count as f32).collect())
    }
}

/// Largest number of values of a vector.
const MOST_WIDTH: usize = 1 << 16;

/// Accepted lengths of a vector. The network takes the vectors as they are, so others would overflow in single precision or
/// vanish beside its biases.
const LENGTHS: RangeInclusive<f64> = 1e-6..=1e6;

/// What is wrong with a line.
struct Wrong {
    problem: String,
    remedy: &'static str,
}

impl Wrong {
    /// The line is not of the format.
    fn format(problem: impl Into<String>) -> Self {
        Wrong { problem: problem.into(), remedy: REMEDY }
    }
}

const REMEDY: &str = "use a GloVe text file with one word and its vector per line";

fn parse<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}
