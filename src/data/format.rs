//! Container of a data file: named, typed, checksummed arrays that are mapped and used in place.
//!
//! ```text
//! 0     header, 64 bytes: magic, version, section count, file length, checksum of the first 4096 bytes
//! 64    section table, 63 entries of 64 bytes: name, offset, byte length, element type, checksum
//! 4096  the sections in the order of the table, each at the next multiple of 64, zeros between them
//! ```
//!
//! Numbers are little-endian and checksums are XXH3-64. A file is written beside its target and renamed at
//! the end, so a failed write leaves nothing behind and keeps an older file. [`Container::open`] checks every
//! byte of the file once; the typed views are trusted afterwards and cost nothing.
//!
//! The last section, `block_checksums`, has a checksum of each 256 KiB of the sections before it. With it, [`Container::map`]
//! opens a file of any size at once, and [`Container::verify`] checks the blocks of a part before it is used.
//!
//! Some sections are optional: readers find them by name and work without them. A new optional section
//! therefore does not change the version: this program opens older files without it, and older programs open
//! files with it. The optional sections are `image_size` (width and height per image), `object_box` (x, y,
//! width, height per object, without image nodes), `url_text_offsets` and `url_text` (an address per image), and
//! `block_checksums`. Unknown values are zeros or an empty text.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::bits::Bits;
use crate::files::mapped_file::MappedFile;
use crate::files::outputs::Kind;
use crate::files::recognise::{FIRST_BYTES, not_expected};
use crate::files::temporary::Temporary;
use crate::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("data files are little-endian and used in place, so a little-endian machine is required");

/// First eight bytes of every data file.
pub const MAGIC: [u8; 8] = *b"scenerk\0";
/// Section with the provenance of the data, which is no part of the content.
pub const METADATA: &str = "metadata";
/// Kind of a data file, for checks before one is written.
pub const KIND: Kind = Kind::Beginning { name: "a data file", bytes: &MAGIC };
/// Version of the layout that this program writes and reads.
pub const VERSION: u32 = 1;
/// Number of sections that fit in the table.
pub const MAX_SECTIONS: usize = 63;
/// Alignment of the sections: a cache line, and enough for any vector load.
pub const ALIGNMENT: u64 = 64;

/// Section with the checksums of blocks. It follows from the others and is no part of the content.
const BLOCKS: &str = "block_checksums";
/// Bytes of a block, counted from the first section: little to read for one image, and 8 bytes of checksum for it.
const BLOCK_BYTES: usize = 1 << 18;
const FRONT_BYTES: usize = 64 * (1 + MAX_SECTIONS);
const NAME_BYTES: usize = 32;
const REMEDY: &str = "prepare it again";

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    magic: [u8; 8],
    version: u32,
    section_count: u32,
    file_length: u64,
    /// Checksum of the first 4096 bytes, with this field zero.
    checksum: u64,
    reserved: [u64; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Entry {
    name: [u8; NAME_BYTES],
    offset: u64,
    length: u64,
    element: u32,
    reserved: u32,
    checksum: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Front {
    header: Header,
    table: [Entry; MAX_SECTIONS],
}

const _: () = assert!(size_of::<Front>() == FRONT_BYTES);

impl Front {
    fn checksum(&self) -> u64 {
        let mut front = *self;
        front.header.checksum = 0;
        xxh3_64(bytemuck::bytes_of(&front))
    }
}

impl Entry {
    fn name(&self) -> String {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

/// Element type of a section.
pub trait Element: Pod {
    /// Number of the type in the section table.
    const TAG: u32;
}

impl Element for u8 {
    const TAG: u32 = 1;
}
impl Element for u32 {
    const TAG: u32 = 2;
}
impl Element for u64 {
    const TAG: u32 = 3;
}
impl Element for f32 {
    const TAG: u32 = 4;
}
impl Element for u16 {
    const TAG: u32 = 5;
}

/// Writes a container section by section; the target does not exist before [`Writer::finish`].
pub struct Writer {
    target: PathBuf,
    file: Temporary,
    front: Front,
    position: u64,
    blocks: BlockSums,
}

/// Checksums of the blocks that were written.
#[derive(Default)]
struct BlockSums {
    hash: Xxh3Default,
    /// Bytes in `hash`, fewer than a block has.
    bytes: usize,
    sums: Vec<u64>,
}

impl BlockSums {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.bytes));
            self.hash.update(now);
            self.bytes += now.len();
            bytes = rest;
            if self.bytes == BLOCK_BYTES {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        self.sums.push(self.hash.digest());
        self.hash.reset();
        self.bytes = 0;
    }
}

impl Writer {
    /// Starts a file that will be moved to `target`.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref().to_path_buf();
        let mut file = Temporary::beside(&target).map_err(Error::file("create", &target))?;
        file.write_all(&[0; FRONT_BYTES]).map_err(Error::file("write", &target))?;
        Ok(Writer {
            target,
            file,
            front: Front::zeroed(),
            position: FRONT_BYTES as u64,
            blocks: BlockSums::default(),
        })
    }

    /// Appends the section `name`, the concatenation of `chunks`, which may be computed lazily.
    pub fn section<T: Element, C: AsRef<[T]>>(
        &mut self,
        name: &str,
        chunks: impl IntoIterator<Item = C>,
    ) -> Result<()> {
        let index = self.front.header.section_count as usize;
        assert!(index < MAX_SECTIONS && name.len() <= NAME_BYTES, "section {name} does not fit the table");
        let padding = self.position.next_multiple_of(ALIGNMENT) - self.position;
        let offset = self.position + padding;
        let mut length = 0;
        let mut hash = Xxh3Default::new();
        let mut buffered = std::io::BufWriter::with_capacity(1 << 20, self.file.file());
        let blocks = &mut self.blocks;
        let mut append = |bytes: &[u8]| {
            blocks.update(bytes);
            buffered.write_all(bytes).map_err(Error::file("write", &self.target))
        };
        append(&[0; ALIGNMENT as usize][..padding as usize])?;
        for chunk in chunks {
            let bytes: &[u8] = bytemuck::cast_slice(chunk.as_ref());
            hash.update(bytes);
            append(bytes)?;
            length += bytes.len() as u64;
        }
        buffered.flush().map_err(Error::file("write", &self.target))?;
        drop(buffered);

        let entry = &mut self.front.table[index];
        entry.name[..name.len()].copy_from_slice(name.as_bytes());
        (entry.offset, entry.length, entry.element) = (offset, length, T::TAG);
        entry.checksum = hash.digest();
        self.front.header.section_count += 1;
        self.position = offset + length;
        Ok(())
    }

    /// Appends the checksums of the blocks of all sections so far, so that parts of the file can be verified. It is the last section.
    pub fn block_checksums(&mut self) -> Result<()> {
        if self.blocks.bytes > 0 {
            self.blocks.close();
        }
        let sums = std::mem::take(&mut self.blocks.sums);
        self.section(BLOCKS, [sums])
    }

    /// Completes the file and moves it to its target, replacing an older file.
    pub fn finish(mut self) -> Result<()> {
        let header = &mut self.front.header;
        (header.magic, header.version, header.file_length) = (MAGIC, VERSION, self.position);
        self.front.header.checksum = self.front.checksum();
        let file = self.file.file();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(bytemuck::bytes_of(&self.front)))
            .and_then(|()| file.sync_all())
            .map_err(Error::file("write", &self.target))?;
        let folder = folder(&self.target);
        self.file.persist(&self.target).map_err(Error::file("write", &self.target))?;
        // Makes the rename itself durable. Some file systems cannot sync a folder; the data is safe already.
        if let Ok(folder) = File::open(folder) {
            folder.sync_all().ok();
        }
        Ok(())
    }
}

/// Folder of `target`, which must hold the temporary file so that it can be renamed without a copy.
fn folder(target: &Path) -> PathBuf {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Bytes of the file that its blocks cover, from the first section on: all but the last section.
fn covered_bytes(entries: &[SectionEntry]) -> usize {
    let last = entries.len().checked_sub(2).map(|last| entries[last].bytes.end);
    last.map_or(0, |end| end - FRONT_BYTES)
}

/// A mapped container. Its front is checked; its sections are checked as a whole or part by part.
#[derive(Debug)]
pub struct Container {
    path: PathBuf,
    map: MappedFile,
    content: u64,
    entries: Vec<SectionEntry>,
    blocks: Blocks,
}

#[derive(Debug)]
struct SectionEntry {
    name: String,
    element: u32,
    bytes: Range<usize>,
    checksum: u64,
}

/// What is known of the blocks of the sections.
#[derive(Debug)]
enum Blocks {
    /// Every byte was verified.
    Verified,
    /// Those that were verified, by number.
    Known { sums: Range<usize>, verified: Bits },
}

/// Position of a section's elements; resolved by [`Container::slice`].
#[derive(Debug)]
pub struct Section<T> {
    bytes: Range<usize>,
    element: PhantomData<T>,
}

impl<T> Section<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Container {
    /// Maps `path` and checks everything: magic, version, lengths, alignment, padding, checksums.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut file = Self::of_front(path.as_ref())?;
        file.verify_whole()?;
        Ok(file)
    }

    /// Maps `path` and checks its front: magic, version, lengths, alignment, padding. Parts of sections are then to be verified
    /// before they are used ([`Container::verify`]). A file without checksums of blocks, which an older version wrote, is checked
    /// as by [`Container::open`].
    pub fn map(path: impl AsRef<Path>) -> Result<Self> {
        let mut file = Self::of_front(path.as_ref())?;
        match file.entries.last() {
            Some(last) if last.name == BLOCKS && last.element == u64::TAG => {
                file.verify_entry(last)?;
                let (sums, count) = (last.bytes.clone(), last.bytes.len() / size_of::<u64>());
                // The zeros before this section are in no block; they were checked with the front.
                if count != covered_bytes(&file.entries).div_ceil(BLOCK_BYTES) {
                    let problem = "not one checksum per block".to_string();
                    return Err(Error::invalid(&file.path, format!("section {BLOCKS}"), problem, REMEDY));
                }
                file.blocks = Blocks::Known { sums, verified: Bits::new(count) };
            }
            _ => file.verify_whole()?,
        }
        Ok(file)
    }

    fn of_front(path: &Path) -> Result<Self> {
        let invalid =
            |place: &str, problem: String, remedy: &str| Error::invalid(path, place, problem, remedy);
        let file = File::open(path).map_err(Error::file("read", path))?;
        let metadata = file.metadata().map_err(Error::file("read", path))?;
        if !metadata.is_file() {
            return Err(invalid("path", "not a file".into(), "name the data file that `prepare` wrote"));
        }
        let map = MappedFile::of_file(file, path)?;
        let magic = &map[..map.len().min(MAGIC.len())];
        if magic != MAGIC {
            let first = &map[..map.len().min(FIRST_BYTES)];
            let remedy = "name a file that `scenerank prepare` wrote";
            return Err(not_expected(path, first, "a scenerank data file", remedy));
        }
        if map.len() < FRONT_BYTES {
            let problem = format!("truncated: {} bytes, and the header alone has {FRONT_BYTES}", map.len());
            return Err(invalid("header", problem, REMEDY));
        }
        let front: &Front = bytemuck::from_bytes(&map[..FRONT_BYTES]);
        let header = &front.header;
        if header.version != VERSION {
            let problem =
                format!("format version {}, this program reads version {VERSION}", { header.version });
            return Err(invalid("header", problem, "prepare it again with this version of the program"));
        }
        if header.checksum != front.checksum() {
            let problem = "damaged: the checksum of header and section table does not match".to_string();
            return Err(invalid("header", problem, REMEDY));
        }
        if header.file_length != map.len() as u64 {
            let kind = if header.file_length > map.len() as u64 { "truncated" } else { "too long" };
            let problem = format!("{kind}: {} bytes expected, {} found", header.file_length, map.len());
            return Err(invalid("file length", problem, REMEDY));
        }
        let sections = front.table.get(..header.section_count as usize).ok_or_else(|| {
            invalid("header", format!("{} sections do not fit the table", header.section_count), REMEDY)
        })?;

        let mut entries = Vec::with_capacity(sections.len());
        let mut end = FRONT_BYTES as u64;
        for entry in sections {
            let place = format!("section {}", entry.name());
            let start = end.next_multiple_of(ALIGNMENT);
            let stop = start.checked_add(entry.length).filter(|&stop| stop <= map.len() as u64);
            let (true, Some(stop)) = (entry.offset == start, stop) else {
                let problem = format!("{} bytes at {} do not fit the file", entry.length, entry.offset);
                return Err(invalid(&place, problem, REMEDY));
            };
            if map[end as usize..start as usize].iter().any(|&byte| byte != 0) {
                return Err(invalid(&place, "damaged: bytes before it are not zero".into(), REMEDY));
            }
            entries.push(SectionEntry {
                name: entry.name(),
                element: entry.element,
                bytes: start as usize..stop as usize,
                checksum: entry.checksum,
            });
            end = stop;
        }
        if end != map.len() as u64 {
            let problem = format!("the sections end at byte {end}, the file at {}", map.len());
            return Err(invalid("section table", problem, REMEDY));
        }
        let mut content = Xxh3Default::new();
        for SectionEntry { name, element, bytes, checksum } in &entries {
            if name != METADATA && name != BLOCKS {
                content.update(name.as_bytes());
                [u64::from(*element), bytes.len() as u64, *checksum]
                    .iter()
                    .for_each(|number| content.update(&number.to_le_bytes()));
            }
        }
        Ok(Container {
            path: path.to_path_buf(),
            map,
            content: content.digest(),
            entries,
            blocks: Blocks::Verified,
        })
    }

    /// Checks every section. One thread reads at the speed of memory, far above the speed of a disk.
    fn verify_whole(&mut self) -> Result<()> {
        self.entries.iter().try_for_each(|entry| self.verify_entry(entry))?;
        self.blocks = Blocks::Verified;
        Ok(())
    }

    fn verify_entry(&self, entry: &SectionEntry) -> Result<()> {
        if xxh3_64(&self.map[entry.bytes.clone()]) == entry.checksum {
            return Ok(());
        }
        let problem = "damaged: its checksum does not match".to_string();
        Err(Error::invalid(&self.path, format!("section {}", entry.name), problem, REMEDY))
    }

    /// Checks the blocks with these elements of a section, if they were not checked before.
    pub fn verify<T: Element>(&self, section: &Section<T>, elements: Range<usize>) -> Result<()> {
        let Blocks::Known { sums, verified } = &self.blocks else { return Ok(()) };
        let [start, end] = [elements.start, elements.end].map(|at| section.bytes.start + at * size_of::<T>());
        assert!(end <= section.bytes.end, "elements of the section");
        if start >= end {
            return Ok(());
        }
        let sums: &[u64] = bytemuck::cast_slice(&self.map[sums.clone()]);
        let covered = FRONT_BYTES + covered_bytes(&self.entries);
        let (block, end_block) =
            ((start - FRONT_BYTES) / BLOCK_BYTES, (end - FRONT_BYTES).div_ceil(BLOCK_BYTES));
        for (block, &sum) in (block..).zip(&sums[block..end_block]) {
            if verified.get(block) {
                continue;
            }
            let first = FRONT_BYTES + block * BLOCK_BYTES;
            let bytes = first..covered.min(first + BLOCK_BYTES);
            if xxh3_64(&self.map[bytes.clone()]) != sum {
                let name = self.entries.iter().find(|entry| entry.bytes.contains(&start));
                let place = name.map_or(String::new(), |entry| format!("section {}", entry.name));
                let problem = format!(
                    "damaged: the checksum of the bytes from {} to {} of the file does not match",
                    bytes.start, bytes.end
                );
                return Err(Error::invalid(&self.path, place, problem, REMEDY));
            }
            verified.set(block);
        }
        Ok(())
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error if another process has written to the file since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.map.check_unchanged()
    }

    /// Checksum of the names, types, lengths and checksums of all sections but [`METADATA`].
    pub fn content_checksum(&self) -> u64 {
        self.content
    }

    /// Finds the section `name`, which must hold elements of type `T`.
    pub fn section<T: Element>(&self, name: &str) -> Result<Section<T>> {
        let invalid = |problem| Error::invalid(&self.path, format!("section {name}"), problem, REMEDY);
        let SectionEntry { element, bytes, .. } = self
            .entries
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| invalid("missing".to_string()))?;
        if *element != T::TAG || bytes.len() % size_of::<T>() != 0 {
            return Err(invalid(format!("does not hold {}", std::any::type_name::<T>())));
        }
        Ok(Section { bytes: bytes.clone(), element: PhantomData })
    }

    /// Like [`Container::section`], for an optional section.
    pub fn optional_section<T: Element>(&self, name: &str) -> Result<Option<Section<T>>> {
        match self.entries.iter().any(|entry| entry.name == name) {
            true => self.section(name).map(Some),
            false => Ok(None),
        }
    }

    /// Elements of a section of this container.
    pub fn slice<T: Element>(&self, section: &Section<T>) -> &[T] {
        bytemuck::cast_slice(&self.map[section.bytes.clone()])
    }
}
