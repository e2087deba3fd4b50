//! The JSON that Python's `json` module writes: it may have `NaN`, `Infinity` and `-Infinity` in place of numbers.
//!
//! They are replaced by `null` while the text is read. So they are a missing id, box or size, as data frames mean by NaN, and are
//! refused wherever a value must be given. The reader also bounds the memory of a record.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

/// Numbers that are no JSON.
const NOT_FINITE: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
const NULL: &[u8] = b"null";

/// Largest record in bytes. A record of public files has less than a hundredth of it.
pub(super) const MOST_RECORD_BYTES: usize = 4 << 20;

/// What the reader has seen, shared with the parser's user.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Number of replaced values.
    pub replaced: Cell<u64>,
    /// Number of characters that the current line has become longer.
    pub longer: Cell<isize>,
    /// Line, from 1, and number of bytes of it that were given.
    position: Cell<(usize, usize)>,
    /// Position behind the last replaced value; line 0 before the first one.
    replaced_until: Cell<(usize, usize)>,
    /// Number of bytes of the current record; `None` while nothing is kept in memory.
    record: Cell<Option<usize>>,
    /// Largest record in bytes.
    most_record_bytes: usize,
    /// Whether a record was too long.
    pub too_long: Cell<bool>,
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

    /// Whether the value before this position of the corrected text is a replaced one. The parser may be one byte further.
    pub fn was_replaced(&self, line: usize, column: usize) -> bool {
        let (replaced_line, end) = self.replaced_until.get();
        replaced_line == line && (end..=end + 1).contains(&column)
    }

    /// Problem of a record that was too long.
    pub fn too_long_problem(&self) -> String {
        format!("a record of more than {} MiB", self.most_record_bytes >> 20)
    }
}

/// Reader of the corrected text.
pub(super) struct PythonJson<R> {
    text: R,
    /// Bytes to give before those of the text.
    pending: Vec<u8>,
    /// Number of pending bytes that were given.
    given: usize,
    in_string: bool,
    /// Whether the last byte in a string was a backslash that escapes the next.
    escaped: bool,
    seen: Rc<Seen>,
}

impl<R: BufRead> PythonJson<R> {
    pub fn new(text: R, most_record_bytes: usize) -> (Self, Rc<Seen>) {
        let seen = Rc::new(Seen { position: Cell::new((1, 0)), most_record_bytes, ..Default::default() });
        let reader = PythonJson {
            text,
            pending: Vec::new(),
            given: 0,
            in_string: false,
            escaped: false,
            seen: Rc::clone(&seen),
        };
        (reader, seen)
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.text.fill_buf()?.first().copied())
    }

    fn next(&mut self) -> io::Result<Option<u8>> {
        if let Some(&byte) = self.pending.get(self.given) {
            self.given += 1;
            return Ok(Some(byte));
        }
        let Some(byte) = self.peek()? else { return Ok(None) };
        self.text.consume(1);
        if self.in_string {
            let escaped = std::mem::replace(&mut self.escaped, false);
            match byte {
                b'\\' => self.escaped = !escaped,
                b'"' => self.in_string = escaped,
                _ => {}
            }
            return Ok(Some(byte));
        }
        match byte {
            b'"' => self.in_string = true,
            b'\n' => self.seen.longer.set(0),
            b'N' | b'I' => return self.word(byte).map(Some),
            b'-' if self.peek()? == Some(b'I') => return self.word(byte).map(Some),
            _ => {}
        }
        Ok(Some(byte))
    }

    /// Reads the rest of a word outside of strings; returns its first byte, or that of its replacement.
    fn word(&mut self, first: u8) -> io::Result<u8> {
        let longest = NOT_FINITE.iter().map(|word| word.len()).max().unwrap_or(0);
        self.pending.clear();
        self.pending.push(first);
        while self.pending.len() < longest
            && let Some(byte) = self.peek()?.filter(u8::is_ascii_alphabetic)
        {
            self.pending.push(byte);
            self.text.consume(1);
        }
        if NOT_FINITE.contains(&self.pending.as_slice()) {
            self.seen.replaced.set(self.seen.replaced.get() + 1);
            let (line, column) = self.seen.position.get();
            self.seen.replaced_until.set((line, column + NULL.len()));
            let longer = NULL.len() as isize - self.pending.len() as isize;
            self.seen.longer.set(self.seen.longer.get() + longer);
            self.pending.clear();
            self.pending.extend(NULL);
        }
        self.given = 1;
        Ok(self.pending[0])
    }
}

impl<R: BufRead> Read for PythonJson<R> {
    /// Reads one byte at a time, as the parser asks for them, so that [`Seen`] is about the parser's position.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(place) = buffer.first_mut() else { return Ok(0) };
        let Some(byte) = self.next()? else { return Ok(0) };
        *place = byte;
        let (line, column) = self.seen.position.get();
        self.seen.position.set(if byte == b'\n' { (line + 1, 0) } else { (line, column + 1) });
        // White space is not kept.
        let is_kept = self.in_string || !byte.is_ascii_whitespace();
        if let Some(bytes) = self.seen.record.get().filter(|_| is_kept) {
            if bytes >= self.seen.most_record_bytes {
                self.seen.too_long.set(true);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, self.seen.too_long_problem()));
            }
            self.seen.record.set(Some(bytes + 1));
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_no_json_become_null_outside_of_strings() {
        // Every size of the buffer, so that words lie across its ends.
        for size in 1..12 {
            let read = |text: &str| {
                let (mut reader, seen) =
                    PythonJson::new(io::BufReader::with_capacity(size, text.as_bytes()), MOST_RECORD_BYTES);
                let mut corrected = String::new();
                reader.read_to_string(&mut corrected).unwrap();
                (corrected, seen.replaced.get())
            };
            assert_eq!(
                read(r#"{"NaN": NaN, "a": [Infinity,-Infinity, -1], "b": "\"NaN\\", "c":NaN}"#),
                (r#"{"NaN": null, "a": [null,null, -1], "b": "\"NaN\\", "c":null}"#.to_string(), 4)
            );
            for other in ["Nan", "NaNs", "Infinit", "-Inf", "None", "-"] {
                assert_eq!(read(other), (other.to_string(), 0));
            }
        }
    }
}
