//! Recognises files by their first bytes, for messages that name what a file is: an archive, a web page, another format.
//!
//! Every reader asks here before it blames the content of a file.

use std::path::Path;

use crate::{Error, Result};

/// Byte order mark of UTF-8, which editors on Windows put in front of a text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// First bytes of a gzip stream.
pub const GZIP: &[u8] = &[0x1f, 0x8b];

/// First bytes of an Arrow IPC file.
pub const ARROW_FILE: &[u8] = b"ARROW1";

/// First bytes of an Arrow IPC stream, and of every message in it.
pub const ARROW_STREAM: &[u8] = b"\xff\xff\xff\xff";

/// Number of first bytes that suffice to recognise a file.
pub const FIRST_BYTES: usize = 512;

/// A recognised format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Name of the format with its article.
    pub name: &'static str,
    /// What to do if another format was expected.
    pub remedy: &'static str,
}

const GIVE_UNPACKED: &str = "unpack it and give the file within";
const GIVE_OTHER: &str = "give the file that the option expects";
const DOWNLOAD_FILE: &str = "download the file itself, not the page about it";
const SAVE_UTF_8: &str = "save the file in UTF-8";

/// Formats by their first bytes. Text formats are compared in lower case, after a byte order mark and white space.
const BINARY: [(&[u8], Format); 22] = [
    (b"PK\x03\x04", Format { name: "a zip archive", remedy: "unzip it and give the file within" }),
    (b"PK\x05\x06", Format { name: "an empty zip archive", remedy: GIVE_OTHER }),
    (GZIP, Format { name: "gzip-compressed", remedy: "unpack it with gunzip" }),
    (b"\xfd7zXZ\0", Format { name: "xz-compressed", remedy: "unpack it with unxz" }),
    (b"BZh", Format { name: "bzip2-compressed", remedy: "unpack it with bunzip2" }),
    (b"\x28\xb5\x2f\xfd", Format { name: "zstd-compressed", remedy: "unpack it with unzstd" }),
    (b"7z\xbc\xaf\x27\x1c", Format { name: "a 7-Zip archive", remedy: GIVE_UNPACKED }),
    (b"Rar!\x1a\x07", Format { name: "a RAR archive", remedy: GIVE_UNPACKED }),
    (b"\xff\xfe\0\0", Format { name: "UTF-32 text", remedy: SAVE_UTF_8 }),
    (b"\0\0\xfe\xff", Format { name: "UTF-32 text", remedy: SAVE_UTF_8 }),
    (b"\xff\xfe", Format { name: "UTF-16 text", remedy: SAVE_UTF_8 }),
    (b"\xfe\xff", Format { name: "UTF-16 text", remedy: SAVE_UTF_8 }),
    (b"\x93NUMPY", Format { name: "a .npy file", remedy: GIVE_OTHER }),
    (b"scenerk\0", Format { name: "a data file of this program", remedy: GIVE_OTHER }),
    (ARROW_FILE, Format { name: "an Arrow file", remedy: GIVE_OTHER }),
    (ARROW_STREAM, Format { name: "an Arrow stream", remedy: GIVE_OTHER }),
    (b"PAR1", Format { name: "a Parquet file", remedy: GIVE_OTHER }),
    (b"\x89HDF\r\n\x1a\n", Format { name: "an HDF5 file", remedy: GIVE_OTHER }),
    (b"%PDF-", Format { name: "a PDF document", remedy: GIVE_OTHER }),
    (b"\x89PNG\r\n\x1a\n", Format { name: "a PNG image", remedy: GIVE_OTHER }),
    (b"\xff\xd8\xff", Format { name: "a JPEG image", remedy: GIVE_OTHER }),
    (b"\x7fELF", Format { name: "a program", remedy: GIVE_OTHER }),
];

const TEXT: [(&[u8], Format); 4] = [
    (b"<!doctype html", Format { name: "a web page (HTML)", remedy: DOWNLOAD_FILE }),
    (b"<html", Format { name: "a web page (HTML)", remedy: DOWNLOAD_FILE }),
    (b"<?xml", Format { name: "an XML document", remedy: DOWNLOAD_FILE }),
    (
        b"version https://git-lfs.github.com/spec/",
        Format {
            name: "a Git LFS pointer, not the file itself",
            remedy: "run `git lfs pull` in its repository",
        },
    ),
];

const TAR: Format = Format { name: "a tar archive", remedy: GIVE_UNPACKED };
const TAR_AT: usize = 257;
/// Safetensors, known by the JSON that follows the length of the header.
pub const SAFETENSORS: Format = Format { name: "a safetensors file", remedy: GIVE_OTHER };
const UTF_16: Format = Format { name: "UTF-16 text", remedy: SAVE_UTF_8 };

/// Recognises a file by its first bytes; [`FIRST_BYTES`] are enough. `None` for unknown bytes and for plain text.
pub fn recognise(first: &[u8]) -> Option<Format> {
    let first = &first[..first.len().min(FIRST_BYTES)];
    let begins = |(magic, _): &&(&[u8], Format)| first.starts_with(magic);
    if let Some((_, format)) = BINARY.iter().find(begins) {
        return Some(*format);
    }
    if first.get(TAR_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        return Some(TAR);
    }
    // The header is JSON and follows its length.
    if first.get(4..9).is_some_and(|bytes| bytes == b"\0\0\0\0{") {
        return Some(SAFETENSORS);
    }
    // UTF-16 without a byte order mark: every other byte of a Latin letter is zero.
    if let &[a, b, c, d, ..] = first {
        let printable = |byte: u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        let (little, big) = ([b, d] == [0, 0], [a, c] == [0, 0]);
        if (little && printable(a) && printable(c)) || (big && printable(b) && printable(d)) {
            return Some(UTF_16);
        }
    }
    let text = first.strip_prefix(BYTE_ORDER_MARK).unwrap_or(first).trim_ascii_start();
    let text = &text.to_ascii_lowercase();
    TEXT.iter().find(|(start, _)| text.starts_with(start)).map(|(_, format)| *format)
}

/// Whether a file begins as an Arrow IPC stream or file.
pub fn is_arrow(first: &[u8]) -> bool {
    first.starts_with(ARROW_FILE) || first.starts_with(ARROW_STREAM)
}

/// Refuses a file whose first bytes are those of another format than text.
pub fn check_is_text(path: &Path, first: &[u8]) -> Result<()> {
    match recognise(first) {
        None => Ok(()),
        Some(Format { name, remedy }) => {
            Err(Error::invalid(path, "first bytes", format!("it is {name}"), remedy))
        }
    }
}

/// Error about a file that is not `expected` ("a .npy file"). It names what the file is, if its first bytes tell.
pub fn not_expected(path: &Path, first: &[u8], expected: &str, remedy: &str) -> Error {
    let (problem, remedy) = match recognise(first) {
        _ if first.is_empty() => (format!("not {expected}: it is empty"), remedy),
        None => (format!("not {expected}"), remedy),
        // The reader knows better what it needs.
        Some(Format { name, remedy: GIVE_OTHER }) => (format!("{name}, not {expected}"), remedy),
        Some(Format { name, remedy: unpack }) => (format!("{name}, not {expected}"), unpack),
    };
    Error::invalid(path, "header", problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let name = |bytes: &[u8]| recognise(bytes).map(|format| format.name);
        for (bytes, expected) in [
            (&b"PK\x03\x04\x14\0"[..], "a zip archive"),
            (b"\x1f\x8b\x08", "gzip-compressed"),
            (b"\xfd7zXZ\0\0", "xz-compressed"),
            (b"BZh91AY", "bzip2-compressed"),
            (b"\xff\xfe[\0", "UTF-16 text"),
            (b"\xfe\xff\0[", "UTF-16 text"),
            (b"[\0{\0", "UTF-16 text"),
            (b"\0[\0{", "UTF-16 text"),
            (b"\n <!DOCTYPE HTML>", "a web page (HTML)"),
            (b"\xef\xbb\xbf<html lang=en>", "a web page (HTML)"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
                "a Git LFS pointer, not the file itself",
            ),
            (b"\x93NUMPY\x01\0", "a .npy file"),
            (b"\xff\xff\xff\xff\x18\x02\0\0", "an Arrow stream"),
            (b"\x40\0\0\0\0\0\0\0{\"a\"", "a safetensors file"),
        ] {
            assert_eq!(name(bytes), Some(expected), "{bytes:?}");
        }
        let mut tar = vec![b'a'; 512];
        tar[TAR_AT..TAR_AT + 5].copy_from_slice(b"ustar");
        assert_eq!(name(&tar), Some("a tar archive"));
        for bytes in
            [&b""[..], b"[", b"[{}]", b"the 0.1 0.2", b"<unk> 0.1", "男性 0.1".as_bytes(), b"\0\0\0\0"]
        {
            assert_eq!(name(bytes), None, "{bytes:?}");
        }
    }
}
