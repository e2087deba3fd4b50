//! GloVe's text format: one word and its vector per line, with or without a word2vec header `count width`.
//!
//! The format is that of the tools that read it elsewhere: the vector is the last fields of a line, so a word may contain blanks
//! and numbers. Blanks are spaces and tabs; any other white space is a part of the word.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::Path;

use super::raw_file::{RawFile, read_error};
use crate::data::words::composed;
use crate::files::text::{line_error, read_line};
use crate::terminal::excerpt;
use crate::{Error, Result};

/// Vectors of the requested words.
#[derive(Debug)]
pub struct WordVectors {
    width: usize,
    vectors: HashMap<String, Vec<f32>>,
    lines: u64,
}

/// First lines of a file, with their numbers.
type Sample = Vec<(u64, Vec<u8>)>;

impl WordVectors {
    /// Reads `path`, keeping the vectors of `wanted` words only. A gzip file may unpack to `most_expansion` times its size.
    ///
    /// A header or the majority of the first lines sets the width. If a word occurs twice, the first vector counts.
    pub fn read(path: &Path, most_expansion: u64, wanted: &HashSet<String>) -> Result<Self> {
        let mut file = RawFile::open(path, most_expansion)?;
        let mut number = 0;
        let mut next = |line: &mut Vec<u8>| {
            number += 1;
            match read_line(file.content(), line, MOST_LINE_BYTES) {
                Ok(true) => Ok(Some(number)),
                Ok(false) => Ok(None),
                Err(error) if error.to_string().starts_with("a line") => Err(line_error(path, number, error)),
                Err(error) => Err(read_error(path, error)),
            }
        };
        let at = |number: u64| {
            move |Wrong { problem, remedy }: Wrong| {
                Error::invalid(path, format!("line {number}"), problem, remedy)
            }
        };
        let mut sample: Sample = Vec::new();
        let mut line = Vec::new();
        while sample.len() < SAMPLE_LINES
            && let Some(number) = next(&mut line)?
        {
            if !line.trim_ascii().is_empty() {
                sample.push((number, line.clone()));
            }
        }
        let Some((first_number, first)) = sample.first() else {
            return Err(Error::invalid(path, "file", "no word vectors", REMEDY));
        };
        let first_word = String::from_utf8_lossy(fields(first).next().unwrap_or_default()).into_owned();
        let announced = announced_width(first).map_err(at(*first_number))?;
        let vectors = &sample[usize::from(announced.is_some())..];
        let width = match (announced, usual_width(vectors)) {
            (Some(width), usual) if usual == width || vectors.is_empty() => width,
            (Some(width), usual) => {
                let problem =
                    format!("vectors of {width} numbers are announced, and {usual} follow in most lines");
                return Err(at(*first_number)(Wrong::format(problem)));
            }
            (None, 0) => return Err(at(*first_number)(Wrong::format("a word without numbers"))),
            (None, usual) => usual,
        };
        let mut words = WordVectors { width, vectors: HashMap::new(), lines: 0 };
        for (number, line) in vectors {
            // A file of another kind shows in its first lines, even if no word of them is wanted.
            words.add(line, wanted, true).map_err(at(*number))?;
        }
        while let Some(number) = next(&mut line)? {
            words.add(&line, wanted, false).map_err(at(number))?;
        }
        if words.vectors.is_empty() && !wanted.is_empty() {
            let problem = format!(
                "none of the {} words of captions and names is among its {} words, which begin with `{}`",
                wanted.len(),
                words.lines,
                excerpt(&first_word)
            );
            let remedy = "give vectors of words in the language of the captions, in lower case";
            return Err(Error::invalid(path, "words", problem, remedy));
        }
        Ok(words)
    }

    /// Adds the word of a line. With `check_all`, the numbers of unwanted words are checked too.
    fn add(
        &mut self,
        line: &[u8],
        wanted: &HashSet<String>,
        check_all: bool,
    ) -> std::result::Result<(), Wrong> {
        let width = self.width;
        let fields: Vec<&[u8]> = fields(line).collect();
        if fields.is_empty() {
            return Ok(());
        }
        // A blank word has no field.
        let blank = fields.len() == width && line.first().is_some_and(is_blank);
        if fields.len() < width + 1 && !blank {
            let count = fields.len() - 1;
            return Err(Wrong::format(format!("{count} numbers, where the first line has {width}")));
        }
        let (word, numbers) = fields.split_at(fields.len() - width);
        if check_all && let Some(field) = numbers.iter().find(|field| parse::<f64>(field).is_none()) {
            return Err(Wrong::not_finite(field));
        }
        self.lines += 1;
        // A word with blanks is never requested.
        let [word] = word else { return Ok(()) };
        let word = composed(&String::from_utf8_lossy(word));
        if !wanted.contains(&word) || self.vectors.contains_key(&word) {
            return Ok(());
        }
        let mut vector = Vec::with_capacity(width);
        for field in numbers {
            let value = parse::<f64>(field).filter(|value| value.is_finite());
            vector.push(value.ok_or_else(|| Wrong::not_finite(field))?);
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
        self.vectors.insert(word, vector);
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
    pub fn mean(&self, words: impl IntoIterator<Item = String>) -> Option<Vec<f32>> {
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

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(is_blank).filter(|field| !field.is_empty())
}

/// Width of word2vec's header `count width`; `None` if the line is no header.
fn announced_width(line: &[u8]) -> std::result::Result<Option<usize>, Wrong> {
    let fields: Vec<&[u8]> = fields(line).collect();
    let [count, width] = fields[..] else { return Ok(None) };
    let (Some(_), Some(width)) = (parse::<u64>(count), parse::<usize>(width)) else { return Ok(None) };
    match (1..=MOST_WIDTH).contains(&width) {
        true => Ok(Some(width)),
        false => Err(Wrong::format(format!("vectors of {width} numbers, of 1 to {MOST_WIDTH}"))),
    }
}

/// Number of numbers at the end of most lines; of two equally frequent ones, that of the earlier line. 0 if there are none.
fn usual_width(lines: &[(u64, Vec<u8>)]) -> usize {
    let widths: Vec<usize> = lines.iter().map(|(_, line)| numbers_at_end(line)).collect();
    let frequency = |width: &usize| widths.iter().filter(|other| *other == width).count();
    // `max_by_key` returns the last maximum.
    widths.iter().rev().max_by_key(|width| frequency(width)).copied().unwrap_or(0)
}

/// Number of numbers at the end of a line behind a word, which may be blank.
fn numbers_at_end(line: &[u8]) -> usize {
    let fields: Vec<&[u8]> = fields(line).collect();
    let most = match line.first().is_some_and(is_blank) {
        true => fields.len(),
        false => fields.len().saturating_sub(1),
    };
    fields.iter().rev().take(most).take_while(|field| parse::<f64>(field).is_some()).count()
}

/// Number of first lines that set the width.
const SAMPLE_LINES: usize = 64;

/// Largest number of values of a vector.
const MOST_WIDTH: usize = 1 << 16;

/// Longest line in bytes: a vector of that width with 30 digits per number.
const MOST_LINE_BYTES: usize = 2 << 20;

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

    fn not_finite(field: &[u8]) -> Self {
        Wrong::format(format!("`{}` is not a finite number", excerpt(&String::from_utf8_lossy(field))))
    }
}

const REMEDY: &str = "use a GloVe text file with one word and its vector per line";

fn parse<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}
