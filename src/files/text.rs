//! Reads text files that people write: UTF-8, with or without a byte order mark, of bounded length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::files::recognise::{BYTE_ORDER_MARK, check_is_text};
use crate::{Error, Result};

/// Largest text that is read as a whole. It is far beyond what people write, and keeps an endless file from the memory.
const MOST_TEXT_BYTES: u64 = 64 << 20;

/// Opens a file to read it. A folder is refused here, since systems report it only when it is read.
pub fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(Error::file("read", path))?;
    let metadata = file.metadata().map_err(Error::file("read", path))?;
    match metadata.is_dir() {
        true => Err(Error::file("read", path)(io::ErrorKind::IsADirectory.into())),
        false => Ok(file),
    }
}

/// Reads a text file, without its byte order mark.
pub fn read_text(path: &Path) -> Result<String> {
    read_text_from(path, open_file(path)?)
}

/// Reads a text, without its byte order mark; `path` is named in messages.
pub fn read_text_from(path: &Path, from: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MOST_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    check_is_text(path, &bytes)?;
    if bytes.len() as u64 > MOST_TEXT_BYTES {
        let problem = format!("more than {} MiB of text", MOST_TEXT_BYTES >> 20);
        return Err(Error::invalid(path, "length", problem, "give the file that the option expects"));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        not_utf_8(path, line as u64)
    })
}

/// Reads a JSON file that the program wrote; `remedy` says what to do if it cannot be read.
pub fn read_json<T: DeserializeOwned>(path: &Path, remedy: &str) -> Result<T> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| Error::invalid(path, format!("line {}", error.line()), error.to_string(), remedy))
}

/// Reads a TOML file; `remedy` says what to do if it cannot be read.
pub fn read_toml<T: DeserializeOwned>(path: &Path, remedy: &str) -> Result<T> {
    let text = read_text(path)?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Error::invalid(path, format!("line {line}"), error.message(), remedy)
    })
}

/// Error about a line that is not UTF-8.
pub fn not_utf_8(path: &Path, line: u64) -> Error {
    Error::invalid(path, format!("line {line}"), "not UTF-8 text", "save the file in UTF-8")
}

/// Reads a line of at most `most` bytes into `line`, without its end. False at the end of the text.
pub fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    line.clear();
    // Room for the end of the line: `\r\n`.
    reader.take(most as u64 + 2).read_until(b'\n', line)?;
    if line.is_empty() {
        return Ok(false);
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    match line.len() > most {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("a line of more than {most} bytes"))),
        false => Ok(true),
    }
}

/// Calls `each` with every line of a text file and its number, from 1. A line has at most `most` bytes.
pub fn for_each_line(path: &Path, most: usize, mut each: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(open_file(path)?);
    let first = reader.fill_buf().map_err(Error::file("read", path))?;
    check_is_text(path, first)?;
    if first.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    let mut line = Vec::new();
    for number in 1u64.. {
        match read_line(&mut reader, &mut line, most) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(line_error(path, number, error)),
        }
        each(number, std::str::from_utf8(&line).map_err(|_| not_utf_8(path, number))?)?;
    }
    Ok(())
}

/// Describes an error of [`read_line`].
pub fn line_error(path: &Path, number: u64, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            let remedy = "give the text file that the option expects, with its line breaks";
            Error::invalid(path, format!("line {number}"), error.to_string(), remedy)
        }
        _ => Error::file("read", path)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        for (bytes, text) in
            [(&b"\xef\xbb\xbfa\n"[..], "a\n"), (b"a\n", "a\n"), (b"\xef\xbb\xbf", ""), (b"", "")]
        {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read_text(&path).unwrap(), text);
        }
        std::fs::write(&path, b"one\ntw\xff\n").unwrap();
        let error = read_text(&path).unwrap_err().to_string();
        assert!(error.ends_with("text: line 2: not UTF-8 text; save the file in UTF-8"), "{error}");
    }

    #[test]
    fn lines_end_in_every_way_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let lines = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut lines = Vec::new();
            for_each_line(&path, 4, |number, line| {
                lines.push((number, line.to_string()));
                Ok(())
            })
            .map(|()| lines)
            .map_err(|error| error.to_string())
        };
        let expected = vec![(1, "ab".to_string()), (2, String::new()), (3, "1234".into())];
        for text in ["ab\n\n1234", "ab\n\n1234\n", "ab\r\n\r\n1234\r\n", "\u{feff}ab\n\n1234\n"] {
            assert_eq!(lines(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
        assert!(lines(b"").unwrap().is_empty());
        let error = lines(b"a\n12345").unwrap_err();
        assert!(error.contains("lines: line 2: a line of more than 4 bytes; give"), "{error}");
        let error = lines(b"a\n\xff\n").unwrap_err();
        assert!(error.ends_with("line 2: not UTF-8 text; save the file in UTF-8"), "{error}");
        let error = for_each_line(folder.path(), 4, |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("cannot read: is a directory; give a file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn an_endless_file_is_refused() {
        let error = read_text(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(
            error,
            "/dev/zero: length: more than 64 MiB of text; give the file that the option expects"
        );
        let error = for_each_line(Path::new("/dev/zero"), 100, |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("line 1: a line of more than 100 bytes"), "{error}");
    }
}
