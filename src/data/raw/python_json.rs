//! The JSON that Python's `json` module writes: it may have `NaN`, `Infinity` and `-Infinity` in place of numbers.
//!
//! The reader replaces them by `null`. An optional id, box or size is then missing, which is what data frames mean by NaN; a
//! required value is an error. The reader also bounds the memory of a record.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Read};
use std::rc::Rc;

/// Python's words for numbers that JSON does not have.
const NOT_FINITE: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
const NULL: &[u8] = b"null";

/// Largest record in bytes. A record of public files has less than a hundredth of it.
pub(super) const MOST_RECORD_BYTES: usize = 4 << 20;

/// What the reader has seen, shared with the parser's user. The parser is behind the reader by what was given last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Number of replaced values.
    pub replaced: Cell<u64>,
    /// Replaced values in the text that the last read returned, and the one before them.
    recent: RefCell<Vec<Replaced>>,
    /// Number of bytes of the current record in what was given after it began; `None` while nothing is kept in memory.
    record: Cell<Option<usize>>,
    /// Largest record in bytes.
    most_record_bytes: usize,
    /// Whether a record was too long.
    pub too_long: Cell<bool>,
}

/// A replaced value.
#[derive(Clone, Copy, Debug)]
struct Replaced {
    /// Line, from 1.
    line: usize,
    /// Column of its last byte in the corrected text.
    column: usize,
    /// Number of characters that the line has become longer up to here.
    longer: isize,
}

impl Seen {
    /// Starts a record, or another value that is kept in memory.
    pub fn begin_record(&self) {
        self.record.set(Some(0));
    }

    /// Starts a value that is skipped.
    pub fn begin_skipped(&self) {
        self.record.set(None);
    }

    /// Last replaced value that ends at or before this position of the corrected text.
    fn last_replaced(&self, line: usize, column: usize) -> Option<Replaced> {
        let recent = self.recent.borrow();
        recent.iter().rev().find(|value| value.line == line && value.column <= column).copied()
    }

    /// Column in the original text, for a position of the corrected text.
    pub fn original_column(&self, line: usize, column: usize) -> usize {
        column.saturating_add_signed(-self.last_replaced(line, column).map_or(0, |value| value.longer))
    }

    /// Whether the value before this position of the corrected text is a replaced one. The parser may be one byte further.
    pub fn was_replaced(&self, line: usize, column: usize) -> bool {
        self.last_replaced(line, column).is_some_and(|value| column <= value.column + 1)
    }

    /// Forgets all replaced values but the last one.
    fn forget(&self) {
        let mut recent = self.recent.borrow_mut();
        let old = recent.len().saturating_sub(1);
        recent.drain(..old);
    }

    /// Problem of a record that was too long.
    pub fn too_long_problem(&self) -> String {
        format!("a record of more than {} MiB", self.most_record_bytes >> 20)
    }
}

/// Reader of the corrected text.
pub(super) struct PythonJson<R> {
    text: R,
    /// Bytes to give before those of the text: a word, or its replacement.
    pending: Vec<u8>,
    place: Place,
    seen: Rc<Seen>,
}

/// Place in the corrected text.
#[derive(Debug)]
struct Place {
    in_string: bool,
    /// Whether the last byte in a string was a backslash that escapes the next.
    escaped: bool,
    /// Line, from 1.
    line: usize,
    /// Number of bytes of the line before this place.
    column: usize,
    /// Number of bytes before this place that the parser may keep in memory: all but white space outside of strings.
    kept: usize,
}

impl Place {
    /// Follows `bytes` up to the first one that may begin a word to replace. Returns the number of bytes before it.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let (mut at, mut spaces, mut line_start) = (0, 0, None);
        while at < bytes.len() {
            if self.in_string {
                if !self.escaped {
                    at += bytes[at..].iter().take_while(|&&byte| byte != b'"' && byte != b'\\').count();
                }
                let Some(&byte) = bytes.get(at) else { break };
                self.in_string = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
            } else {
                match bytes[at] {
                    b'"' => self.in_string = true,
                    b'N' | b'I' | b'-' => break,
                    b'\n' => {
                        spaces += 1;
                        self.line += 1;
                        line_start = Some(at + 1);
                    }
                    b' ' | b'\t' | b'\r' => spaces += 1,
                    _ => {}
                }
            }
            at += 1;
        }
        self.kept += at - spaces;
        self.column = line_start.map_or(self.column + at, |start| at - start);
        at
    }
}

impl<R: BufRead> PythonJson<R> {
    pub fn new(text: R, most_record_bytes: usize) -> (Self, Rc<Seen>) {
        let seen = Rc::new(Seen { most_record_bytes, ..Seen::default() });
        let place = Place { in_string: false, escaped: false, line: 1, column: 0, kept: 0 };
        (PythonJson { text, pending: Vec::new(), place, seen: Rc::clone(&seen) }, seen)
    }

    /// Reads what may be a word to replace into `pending`.
    fn word(&mut self) -> io::Result<()> {
        let longest = NOT_FINITE.iter().map(|word| word.len()).max().unwrap_or(0);
        while self.pending.len() < longest
            && let Some(&byte) = self.text.fill_buf()?.first()
            && (byte.is_ascii_alphabetic() || self.pending.is_empty())
        {
            self.pending.push(byte);
            self.text.consume(1);
        }
        let place = &mut self.place;
        if NOT_FINITE.contains(&self.pending.as_slice()) {
            let before = self.seen.last_replaced(place.line, place.column).map_or(0, |value| value.longer);
            let longer = before + NULL.len() as isize - self.pending.len() as isize;
            self.pending.clear();
            self.pending.extend(NULL);
            let value = Replaced { line: place.line, column: place.column + NULL.len(), longer };
            self.seen.recent.borrow_mut().push(value);
            self.seen.replaced.set(self.seen.replaced.get() + 1);
        }
        place.column += self.pending.len();
        place.kept += self.pending.len();
        Ok(())
    }
}

impl<R: BufRead> Read for PythonJson<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The parser has taken what was given before.
        if self.seen.record.get().is_some_and(|bytes| bytes >= self.seen.most_record_bytes) {
            self.seen.too_long.set(true);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, self.seen.too_long_problem()));
        }
        self.seen.forget();
        let kept = self.place.kept;
        let mut given = 0;
        while given < buffer.len() {
            if self.pending.is_empty() {
                let text = self.text.fill_buf()?;
                let most = text.len().min(buffer.len() - given);
                let plain = self.place.follow(&text[..most]);
                buffer[given..given + plain].copy_from_slice(&text[..plain]);
                self.text.consume(plain);
                given += plain;
                if plain == most {
                    // The end of what is there.
                    break;
                }
                self.word()?;
            }
            let count = self.pending.len().min(buffer.len() - given);
            buffer[given..given + count].copy_from_slice(&self.pending[..count]);
            self.pending.drain(..count);
            given += count;
        }
        if let Some(bytes) = self.seen.record.get() {
            self.seen.record.set(Some(bytes + self.place.kept - kept));
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_no_json_become_null_outside_of_strings() {
        // Every size of the buffers, so that words lie across their ends.
        for (size, given) in (1..12).flat_map(|size| [1, 3, 7, 64].map(|given| (size, given))) {
            let read = |text: &str| {
                let text = io::BufReader::with_capacity(size, text.as_bytes());
                let (reader, seen) = PythonJson::new(text, MOST_RECORD_BYTES);
                let mut corrected = String::new();
                io::BufReader::with_capacity(given, reader).read_to_string(&mut corrected).unwrap();
                (corrected, seen.replaced.get())
            };
            assert_eq!(
                read(r#"{"NaN": NaN, "a": [Infinity,-Infinity, -1], "b": "\"NaN\\", "c":NaN}"#),
                (r#"{"NaN": null, "a": [null,null, -1], "b": "\"NaN\\", "c":null}"#.to_string(), 4)
            );
            for other in ["Nan", "NaNs", "Infinit", "-Inf", "None", "-", "--NaNNaN"] {
                assert_eq!(read(other), (other.to_string(), 0));
            }
        }
    }

    #[test]
    fn columns_are_those_of_the_text_as_it_is() {
        let text = "[NaN, 1,\n -Infinity,\"NaN\\\"\", NaN,\n2, Infinity]";
        let corrected = "[null, 1,\n null,\"NaN\\\"\", null,\n2, null]";
        for given in [1, 4, 11, 64] {
            let (reader, seen) = PythonJson::new(text.as_bytes(), MOST_RECORD_BYTES);
            let mut reader = io::BufReader::with_capacity(given, reader);
            let (mut line, mut column) = (1, 0);
            for expected in corrected.bytes() {
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap();
                assert_eq!(byte[0], expected);
                (line, column) = if expected == b'\n' { (line + 1, 0) } else { (line, column + 1) };
                if expected == b',' {
                    let lines: Vec<&str> = text.lines().collect();
                    let original = seen.original_column(line, column);
                    assert_eq!(
                        lines[line - 1].as_bytes()[original - 1],
                        b',',
                        "line {line}, column {column}"
                    );
                    let before = &lines[line - 1][..original - 1];
                    let replaced = before.ends_with("NaN") || before.ends_with("Infinity");
                    assert_eq!(seen.was_replaced(line, column), replaced, "{before}");
                }
            }
        }
    }
}
