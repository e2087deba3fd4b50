//! Header of a `.npy` file: magic string, version, and a Python dictionary of the type, the order and the shape.

use std::io::{self, Read};

/// First bytes of a `.npy` file.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// Largest header in bytes; numpy rejects longer ones by default.
const MOST_HEADER_BYTES: usize = 10_000;

/// The data begins at a multiple of this, for readers that map the file.
const ALIGNMENT: usize = 64;

/// Description of the array in a `.npy` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NpyHeader {
    /// Type of a value as Python prints it, such as `'<f4'` with its quotes.
    pub descr: String,
    /// Whether the first index runs fastest.
    pub fortran_order: bool,
    /// Number of values along each dimension; the number of all values is below 2^64.
    pub shape: Vec<u64>,
}

impl NpyHeader {
    /// Reads the header; `reader` is then at the first value. Errors are one line.
    pub fn read(mut reader: impl Read) -> io::Result<Self> {
        Self::read_text(&mut reader).and_then(|text| Self::parse(&text)).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other("the file ends within its header"),
            _ => error,
        })
    }

    fn read_text(mut reader: impl Read) -> io::Result<String> {
        // Magic string, two bytes of version, and the length of the header: two bytes in version 1, four in later versions.
        let mut start = [0; 12];
        reader.read_exact(&mut start[..10])?;
        if !start.starts_with(MAGIC) {
            return Err(io::Error::other("no .npy file"));
        }
        if !(1..=3).contains(&start[6]) {
            return Err(io::Error::other(format!("version {} of the format", start[6])));
        }
        if start[6] > 1 {
            reader.read_exact(&mut start[10..])?;
        }
        let length = u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize;
        if length > MOST_HEADER_BYTES {
            return Err(io::Error::other(format!("a header of {length} bytes")));
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text)?;
        String::from_utf8(text).map_err(|_| io::Error::other("it is not UTF-8 text"))
    }

    fn parse(text: &str) -> io::Result<Self> {
        let mut literal = Literal { rest: text };
        let header = literal.dictionary().filter(|_| literal.rest.trim().is_empty());
        let (descr, fortran_order, shape) =
            header.ok_or_else(|| io::Error::other("it is not a header that numpy.save writes"))?;
        let shape: Option<Vec<u64>> = shape.iter().map(|size| size.parse().ok()).collect();
        shape
            .filter(|shape| shape.iter().try_fold(1u64, |all, &size| all.checked_mul(size.max(1))).is_some())
            .map(|shape| NpyHeader { descr: descr.to_string(), fortran_order, shape })
            .ok_or_else(|| io::Error::other("a shape that no file can hold"))
    }

    /// Kind and size of a value without its byte order, such as `f4`.
    pub fn kind(&self) -> &str {
        self.descr.trim_matches(['\'', '"']).trim_start_matches(['<', '>', '=', '|'])
    }

    /// Whether values are stored in the byte order that this machine does not use.
    pub fn is_swapped(&self) -> bool {
        let other = if cfg!(target_endian = "little") { '>' } else { '<' };
        self.descr[1..].starts_with(other)
    }

    /// Bytes of the header, from the magic string to the first value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let order = if self.fortran_order { "True" } else { "False" };
        let sizes: String = self.shape.iter().map(|size| format!("{size}, ")).collect();
        let mut text = format!("{{'descr': {}, 'fortran_order': {order}, 'shape': ({sizes}), }}", self.descr);
        let before = MAGIC.len() + 4;
        let end = (before + text.len() + 1).next_multiple_of(ALIGNMENT);
        text.extend(std::iter::repeat_n(' ', end - before - text.len() - 1));
        text.push('\n');
        let mut bytes = [MAGIC, &[1, 0]].concat();
        bytes.extend(u16::try_from(text.len()).expect("a short header").to_le_bytes());
        bytes.extend(text.bytes());
        bytes
    }
}

/// Reader of the Python literals in a header. Functions return `None` for anything else.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    /// Type, order and sizes of the dictionary with these three entries.
    fn dictionary(&mut self) -> Option<(&'a str, bool, Vec<&'a str>)> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.symbol('{')?;
        while self.symbol('}').is_none() {
            let key = self.string()?;
            self.symbol(':')?;
            match key.trim_matches(['\'', '"']) {
                "descr" => descr = Some(self.string().or_else(|| self.list())?),
                "fortran_order" => {
                    fortran_order = Some(match self.word()? {
                        "True" => true,
                        "False" => false,
                        _ => return None,
                    })
                }
                "shape" => shape = Some(self.sizes()?),
                _ => return None,
            }
            if self.symbol(',').is_none() {
                self.symbol('}')?;
                break;
            }
        }
        Some((descr?, fortran_order?, shape?))
    }

    /// Skips white space, and this character behind it.
    fn symbol(&mut self, symbol: char) -> Option<()> {
        self.rest = self.rest.trim_start();
        self.rest = self.rest.strip_prefix(symbol)?;
        Some(())
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    /// A text without escapes, with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let length =
            self.rest[1..].find([quote, '\\']).filter(|&end| self.rest[1 + end..].starts_with(quote))?;
        Some(self.take(length + 2))
    }

    /// Fields of a structured type, which no reader here accepts: all up to the last bracket.
    fn list(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        self.rest.strip_prefix('[')?;
        Some(self.take(self.rest.rfind(']')? + 1))
    }

    /// Letters, digits and signs.
    fn word(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(self.rest.len());
        Some(self.take(end)).filter(|word| !word.is_empty())
    }

    /// Sizes in brackets. Python 2 wrote long integers, as in `(4L, 3L)`.
    fn sizes(&mut self) -> Option<Vec<&'a str>> {
        let mut sizes = Vec::new();
        let end = match self.symbol('(') {
            Some(()) => ')',
            None => self.symbol('[').map(|()| ']')?,
        };
        while self.symbol(end).is_none() {
            let size = self.word()?;
            sizes.push(size.strip_suffix('L').unwrap_or(size));
            if self.symbol(',').is_none() {
                self.symbol(end)?;
                break;
            }
        }
        Some(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[1, 0]].concat();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.bytes());
        bytes
    }

    #[test]
    fn headers_are_read_and_written() {
        for shape in [vec![], vec![3], vec![2, 3], vec![4096, 0, 7]] {
            let header = NpyHeader { descr: "'<f2'".into(), fortran_order: true, shape };
            let bytes = header.to_bytes();
            assert!(bytes.len().is_multiple_of(ALIGNMENT) && bytes.ends_with(b"\n"));
            let mut rest = bytes.as_slice();
            assert_eq!(NpyHeader::read(&mut rest).unwrap(), header);
            assert!(rest.is_empty());
        }
        let header = NpyHeader { descr: "'<f4'".into(), fortran_order: false, shape: vec![2, 3] };
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }      \n",
            "{\"shape\":[ 2L ,3 ],'fortran_order':False,'descr':'<f4'}",
        ] {
            assert_eq!(NpyHeader::read(bytes(text).as_slice()).unwrap(), header, "{text}");
        }
    }

    #[test]
    fn other_headers_are_refused() {
        let valid = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        for (old, new) in [
            ("(2, 3)", "2"),
            ("(2, 3)", "(2 3)"),
            ("(2, 3)", "(2, -3)"),
            ("(2, 3)", "(2, three)"),
            ("(2, 3)", "(2, 3"),
            ("False", "None"),
            ("'<f4'", "4"),
            ("'<f4'", "'\\'<f4'"),
            ("'shape'", "'size'"),
            ("'shape': (2, 3), ", ""),
            (", }", ", } 1"),
            (", }", ""),
            ("{", ""),
        ] {
            let text = valid.replacen(old, new, 1);
            assert_ne!(text, valid);
            assert!(NpyHeader::read(bytes(&text).as_slice()).is_err(), "{text}");
        }
        let structured = valid.replace("'<f4'", "[('a', '<f4'), ('b', '<f4', (2,))]");
        let header = NpyHeader::read(bytes(&structured).as_slice()).unwrap();
        assert_eq!(header.descr, "[('a', '<f4'), ('b', '<f4', (2,))]");
        for end in 0..bytes(valid).len() {
            NpyHeader::read(&bytes(valid)[..end]).unwrap_err();
        }
    }
}
