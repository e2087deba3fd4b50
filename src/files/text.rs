//! Reads text files that people write: UTF-8, with or without a byte order mark.

use std::path::Path;

use crate::{Error, Result};

/// Byte order mark of UTF-8, which editors on Windows put in front of a text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a text file, without its byte order mark.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        Error::invalid(path, format!("line {line}"), "not UTF-8 text", "save the file in UTF-8")
    })
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
}
