//! A raw file, decompressed while it is read.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::GzDecoder;

use crate::files::recognise::{BYTE_ORDER_MARK, FIRST_BYTES, GZIP, check_is_text, is_arrow};
use crate::files::text::open_file;
use crate::progress::Progress;
use crate::{Error, Result};

const BUFFER_BYTES: usize = 1 << 18;

/// Path that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// Default of `--max-expansion`. Compressed JSON and word vectors unpack to 5 to 30 times their size, a gzip bomb to 1000 times.
pub const EXPANSION: u64 = 200;

/// Unpacked bytes from which the expansion is limited.
const ANY_EXPANSION_BYTES: u64 = 4 << 20;

/// An open raw file. Its first bytes, not its name, decide whether it is gzip-compressed. A byte order mark is skipped.
pub struct RawFile {
    path: PathBuf,
    content: BufReader<Box<dyn Read>>,
}

/// What a raw file may contain.
#[derive(Clone, Copy)]
enum Content {
    Text,
    TextOrArrow,
}

impl Content {
    /// Refuses a file whose first bytes are those of another format.
    fn check(self, path: &Path, first: &[u8]) -> Result<()> {
        match self {
            Content::TextOrArrow if is_arrow(first) => Ok(()),
            _ => check_is_text(path, first),
        }
    }
}

/// Reader of the stored bytes, which reports its progress.
struct Stored {
    file: BufReader<File>,
    bytes: Rc<Cell<u64>>,
    progress: Option<Progress>,
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.bytes.set(self.bytes.get() + count as u64);
        if let Some(progress) = &self.progress {
            progress.advance(count as u64);
        }
        Ok(count)
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }
}

/// Reader of unpacked bytes, which ends with an error if they are too many for the stored ones.
struct Unpacked<R> {
    content: R,
    bytes: u64,
    stored: Rc<Cell<u64>>,
    most_expansion: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.bytes += count as u64;
        let most = self.stored.get().saturating_mul(self.most_expansion).max(ANY_EXPANSION_BYTES);
        match self.bytes > most {
            true => {
                let problem = format!("it unpacks to more than {} times its size", self.most_expansion);
                Err(io::Error::new(io::ErrorKind::FileTooLarge, problem))
            }
            false => Ok(count),
        }
    }
}

impl RawFile {
    /// Opens `path`, or standard input if it is `-`. Shows a progress bar until the file is dropped. A gzip file may unpack to `most_expansion` times its size.
    ///
    /// Refuses other formats by their first bytes, also within a gzip file.
    pub fn open(path: impl AsRef<Path>, most_expansion: u64) -> Result<Self> {
        Self::open_as(Content::Text, path.as_ref(), most_expansion)
    }

    /// Like [`RawFile::open`], and accepts the Arrow format too.
    pub fn open_text_or_arrow(path: impl AsRef<Path>, most_expansion: u64) -> Result<Self> {
        Self::open_as(Content::TextOrArrow, path.as_ref(), most_expansion)
    }

    fn open_as(expected: Content, path: &Path, most_expansion: u64) -> Result<Self> {
        if path == Path::new(STANDARD_INPUT) {
            let input = io::stdin().as_fd().try_clone_to_owned();
            let (name, input) = (Path::new("standard input"), input.map_err(Error::file("read", path))?);
            return Self::start(expected, name, input.into(), most_expansion, None);
        }
        // Opened once: a pipe loses its writer when it is closed.
        let file = open_file(path)?;
        let bytes = file.metadata().map_err(Error::file("read", path))?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let progress = Progress::new(name, Some(bytes), "bytes");
        Self::start(expected, path, file, most_expansion, Some(progress))
    }

    /// Checks that `path` can be opened and begins as a text, or as a compressed text.
    pub fn check(path: &Path, most_expansion: u64) -> Result<()> {
        let metadata = path.metadata().map_err(Error::file("read", path))?;
        // A pipe can be read only once.
        match metadata.is_file() || metadata.is_dir() {
            true => Self::start(Content::Text, path, open_file(path)?, most_expansion, None).map(drop),
            false => Ok(()),
        }
    }

    fn start(
        expected: Content,
        path: &Path,
        file: File,
        most_expansion: u64,
        progress: Option<Progress>,
    ) -> Result<Self> {
        let path = path.to_path_buf();
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let first = file.fill_buf().map_err(Error::file("read", &path))?;
        let gzip = first.starts_with(GZIP);
        if !gzip {
            expected.check(&path, first)?;
        }
        let bytes = Rc::new(Cell::new(0));
        let stored = Stored { file, bytes: Rc::clone(&bytes), progress };
        let mut content: Box<dyn Read> = match gzip {
            true => {
                let content = Members::new(BufReader::new(stored));
                Box::new(Unpacked { content, bytes: 0, stored: bytes, most_expansion })
            }
            false => Box::new(stored),
        };
        let mut first = Vec::new();
        // A reader may return fewer bytes than asked for.
        content
            .by_ref()
            .take(FIRST_BYTES as u64)
            .read_to_end(&mut first)
            .map_err(|error| read_error(&path, error))?;
        expected.check(&path, &first)?;
        if first.starts_with(BYTE_ORDER_MARK) {
            first.drain(..BYTE_ORDER_MARK.len());
        }
        let content: Box<dyn Read> = Box::new(io::Cursor::new(first).chain(content));
        Ok(RawFile { path, content: BufReader::with_capacity(BUFFER_BYTES, content) })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Decompressed content.
    pub fn content(&mut self) -> &mut impl BufRead {
        &mut self.content
    }

    /// Whether the content is an Arrow stream or file.
    pub fn is_arrow(&mut self) -> Result<bool> {
        let first = self.content.fill_buf().map_err(|error| read_error(&self.path, error))?;
        Ok(is_arrow(first))
    }

    /// Returns the first two characters that are not white space, without consuming them. They must be among the first bytes.
    pub fn first_two_characters(&mut self) -> Result<Vec<u8>> {
        let buffer = self.content.fill_buf().map_err(|error| read_error(&self.path, error))?;
        Ok(buffer.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(2).collect())
    }

    /// Whether the content begins with a map whose first value is no map: with a record, and not with a map of records. The value
    /// must be among the first bytes.
    pub fn begins_with_a_record(&mut self) -> Result<bool> {
        let buffer = self.content.fill_buf().map_err(|error| read_error(&self.path, error))?;
        let Some(entries) = buffer.trim_ascii_start().strip_prefix(b"{") else { return Ok(false) };
        let colon = entries.iter().position(|&byte| byte == b':');
        Ok(colon.is_some_and(|colon| !entries[colon + 1..].trim_ascii_start().starts_with(b"{")))
    }

    /// Returns the first character that is not white space, without consuming it.
    pub fn first_character(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = self.content.fill_buf().map_err(|error| read_error(&self.path, error))?;
            if buffer.is_empty() {
                return Ok(None);
            }
            match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
                Some(at) => return Ok(Some(buffer[at])),
                None => {
                    let length = buffer.len();
                    self.content.consume(length);
                }
            }
        }
    }
}

/// Members of a gzip file, one after the other. Zeros after the last one are padding, as of tapes and some downloads.
struct Members<R: BufRead> {
    /// `None` while no member is open.
    member: Option<GzDecoder<R>>,
    /// The file, while no member is open.
    file: Option<R>,
}

impl<R: BufRead> Members<R> {
    fn new(file: R) -> Self {
        Members { member: Some(GzDecoder::new(file)), file: None }
    }

    /// Opens the next member; false at the end of the file.
    fn open_next(&mut self) -> io::Result<bool> {
        if let Some(member) = self.member.take() {
            self.file = Some(member.into_inner());
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        loop {
            let buffer = file.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            let zeros = buffer.iter().take_while(|&&byte| byte == 0).count();
            if zeros < buffer.len() {
                file.consume(zeros);
                break;
            }
            file.consume(zeros);
        }
        self.member = self.file.take().map(GzDecoder::new);
        Ok(true)
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(member) = &mut self.member {
                let count = member.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            if !self.open_next()? {
                return Ok(0);
            }
        }
    }
}

/// Describes a read error: a truncated or damaged gzip stream, one that unpacks to too much, or an error of the system.
pub fn read_error(path: &Path, error: io::Error) -> Error {
    let (problem, remedy) = match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            ("truncated: the compressed data ends early".to_string(), "download it again")
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            (format!("damaged: {error}"), "download it again")
        }
        io::ErrorKind::FileTooLarge => {
            (error.to_string(), "if the content is right, unpack it with gunzip or raise --max-expansion")
        }
        _ => return Error::file("read", path)(error),
    };
    Error::invalid(path, "gzip stream", problem, remedy)
}
