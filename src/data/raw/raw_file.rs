//! A raw file, decompressed while it is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use crate::files::text::BYTE_ORDER_MARK;
use crate::progress::Progress;
use crate::{Error, Result};

const BUFFER_BYTES: usize = 1 << 18;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// An open raw file. Its first bytes, not its name, decide whether it is gzip-compressed. A byte order mark is skipped.
pub struct RawFile {
    path: PathBuf,
    content: BufReader<Box<dyn Read>>,
}

/// Reader that reports its progress.
struct Counted {
    file: BufReader<File>,
    progress: Option<Progress>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if let Some(progress) = &self.progress {
            progress.advance(count as u64);
        }
        Ok(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }
}

impl RawFile {
    /// Opens `path`. Shows a progress bar until the file is dropped.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path).map_err(Error::file("read", &path))?;
        let bytes = file.metadata().map_err(Error::file("read", &path))?.len();
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let gzip = file.fill_buf().map_err(Error::file("read", &path))?.starts_with(&GZIP_MAGIC);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let counted = Counted { file, progress: Some(Progress::new(name, Some(bytes), "bytes")) };
        let mut content: Box<dyn Read> =
            if gzip { Box::new(Members::new(BufReader::new(counted))) } else { Box::new(counted) };
        // The byte order mark is no part of the content. A reader may return fewer bytes than asked for.
        let mut first = Vec::new();
        let mark = BYTE_ORDER_MARK.len() as u64;
        content.by_ref().take(mark).read_to_end(&mut first).map_err(|error| read_error(&path, &error))?;
        if first != BYTE_ORDER_MARK {
            content = Box::new(io::Cursor::new(first).chain(content));
        }
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

    /// Returns the first character that is not white space, without consuming it.
    pub fn first_character(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = self.content.fill_buf().map_err(|error| read_error(&self.path, &error))?;
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

/// Describes a read error: a truncated or damaged gzip stream, or an error of the operating system.
pub fn read_error(path: &Path, error: &io::Error) -> Error {
    let problem = match error.kind() {
        io::ErrorKind::UnexpectedEof => "truncated: the compressed data ends early".to_string(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => format!("damaged: {error}"),
        _ => return Error::file("read", path)(io::Error::new(error.kind(), error.to_string())),
    };
    Error::invalid(path, "gzip stream", problem, "download it again")
}
