//! Writes a collection image by image, in constant memory.
//!
//! Chunks of images are generated in parallel and written in order while the next chunk is generated, so the
//! bytes do not depend on the number of threads. The files appear under their names only when all of them are
//! complete.

use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;

use super::captions::{CAPTIONS_PER_IMAGE, captions};
use super::image::{CocoRole, Depiction, annotated_graph, coco_id, coco_role, image_id, image_size};
use super::word_vectors::word_vectors;
use super::{SynthConfig, SynthFiles};
use crate::files::temporary::Temporary;
use crate::progress::Progress;
use crate::{Error, Result};

/// Number of images generated at a time: a few megabytes of text, and enough work for many threads.
const CHUNK: u64 = 1024;

/// Widths of word vectors that can be written; narrower ones cannot hold topics.
const WORD_WIDTHS: Range<usize> = 8..4097;
/// Ids are 100 times the image's id, and readers may store them as signed 32-bit numbers.
const MAX_IMAGES: u64 = 20_000_000;

/// Writes the collection described by `config` to the folder `out`, which is created if necessary.
///
/// Writes about 4 kB per image, and needs memory for a few thousand images at most. Existing files are an
/// error unless `config.force` is set.
pub fn write_collection(out: &Path, config: &SynthConfig) -> Result<SynthFiles> {
    check(config)?;
    std::fs::create_dir_all(out).map_err(Error::file("create", out))?;
    let path = |name: &str, suffix: &str| out.join(format!("{name}{suffix}"));
    let suffix = if config.gzip { ".gz" } else { "" };
    let files = SynthFiles {
        scene_graphs: path("scene_graphs.json", suffix),
        image_data: path("image_data.json", suffix),
        captions: path("captions.json", suffix),
        glove: path("glove.txt", suffix),
    };
    let all = [&files.scene_graphs, &files.image_data, &files.captions, &files.glove];
    if !config.force
        && let Some(existing) = all.into_iter().find(|path| path.exists())
    {
        return Err(Error::invalid(
            existing,
            "file",
            "exists already",
            "choose another folder, or give --force to replace it",
        ));
    }
    let [mut scene_graphs, mut image_data, mut captions, mut glove] = [
        Output::create(&files.scene_graphs, config.gzip)?,
        Output::create(&files.image_data, config.gzip)?,
        Output::create(&files.captions, config.gzip)?,
        Output::create(&files.glove, config.gzip)?,
    ];
    write_word_vectors(&mut glove, config.word_width)?;
    write_images(config, &mut scene_graphs, &mut image_data, &mut captions)?;
    let complete = [scene_graphs.finish()?, image_data.finish()?, captions.finish()?, glove.finish()?];
    for (file, path) in complete.into_iter().zip(all) {
        file.persist(path).map_err(Error::file("write", path))?;
    }
    Ok(files)
}

fn check(config: &SynthConfig) -> Result<()> {
    if !(1..=MAX_IMAGES).contains(&config.images) {
        return Err(Error::argument(
            "--images",
            format!("{} images cannot be made", config.images),
            format!("give a number from 1 to {MAX_IMAGES}"),
        ));
    }
    if !WORD_WIDTHS.contains(&config.word_width) {
        return Err(Error::argument(
            "--word-width",
            format!("word vectors of width {} cannot be made", config.word_width),
            format!("give a number from {} to {}", WORD_WIDTHS.start, WORD_WIDTHS.end - 1),
        ));
    }
    Ok(())
}

fn write_word_vectors(output: &mut Output, width: usize) -> Result<()> {
    let mut text = String::new();
    for (word, vector) in word_vectors(width) {
        text += &word;
        for value in vector {
            text += &format!(" {value:.5}");
        }
        text.push('\n');
    }
    output.write(&text)
}

/// One entry of `image_data.json`.
#[derive(Serialize)]
struct ImageData {
    image_id: u64,
    coco_id: Option<u64>,
    width: u32,
    height: u32,
    url: Option<String>,
    flickr_id: Option<u64>,
}

/// One entry of `images` in `captions.json`.
#[derive(Serialize)]
struct CocoImage {
    id: Option<u64>,
    width: u32,
    height: u32,
}

/// One entry of `annotations` in `captions.json`.
#[derive(Serialize)]
struct CocoCaption {
    id: u64,
    image_id: Option<u64>,
    caption: String,
}

/// Contributions of some images to the three documents: entries separated by commas.
#[derive(Default)]
struct Entries {
    scene_graphs: String,
    image_data: String,
    captions: String,
}

fn write_images(
    config: &SynthConfig,
    scene_graphs: &mut Output,
    image_data: &mut Output,
    captions: &mut Output,
) -> Result<()> {
    // COCO lists images before annotations. An image's entry is cheap enough to generate it in a separate
    // pass.
    let info = json!({ "description": "synthetic scenes", "version": "1.0", "seed": config.seed });
    captions.write(&format!("{{\"info\":{info},\"licenses\":[],\"images\":["))?;
    let mut separator = "";
    for chunk in chunks(config.images) {
        let images = coco_images(config.seed, chunk);
        captions.write_entries(&mut separator, &images)?;
    }
    captions.write("],\"annotations\":[")?;
    scene_graphs.write("[")?;
    image_data.write("[")?;

    let progress = Progress::new("synth", Some(config.images), "images");
    let mut separators = [""; 3];
    let mut ready = (0, Entries::default());
    for chunk in chunks(config.images).map(Some).chain([None]) {
        let (written, next) = rayon::join(
            || -> Result<()> {
                let (_, entries) = &ready;
                scene_graphs.write_entries(&mut separators[0], &entries.scene_graphs)?;
                image_data.write_entries(&mut separators[1], &entries.image_data)?;
                captions.write_entries(&mut separators[2], &entries.captions)
            },
            || chunk.map(|chunk| (chunk.end - chunk.start, entries(config.seed, chunk))),
        );
        written?;
        progress.advance(ready.0);
        ready = next.unwrap_or_default();
    }
    progress.finish();
    scene_graphs.write("]\n")?;
    image_data.write("]\n")?;
    captions.write("]}\n")
}

fn chunks(images: u64) -> impl Iterator<Item = Range<u64>> {
    (0..images).step_by(CHUNK as usize).map(move |start| start..images.min(start + CHUNK))
}

/// Entries of `chunk`, generated in parallel.
fn entries(seed: u64, chunk: Range<u64>) -> Entries {
    let of_images: Vec<Entries> = chunk.into_par_iter().map(|index| image_entries(seed, index)).collect();
    let join = |field: fn(&Entries) -> &str| join_entries(of_images.iter().map(field));
    Entries {
        scene_graphs: join(|entries| &entries.scene_graphs),
        image_data: join(|entries| &entries.image_data),
        captions: join(|entries| &entries.captions),
    }
}

fn image_entries(seed: u64, index: u64) -> Entries {
    let depiction = Depiction::new(seed, index);
    let (width, height) = image_size(seed, index);
    let coco_id = coco_id(seed, index);
    let image = ImageData { image_id: image_id(index), coco_id, width, height, url: None, flickr_id: None };
    let mut annotations = Vec::new();
    // A shared COCO image has its captions once.
    if coco_role(seed, index) == CocoRole::Own {
        let first = image_id(index) * CAPTIONS_PER_IMAGE as u64;
        for (caption, id) in captions(seed, index, &depiction).into_iter().zip(first..) {
            annotations.push(to_json(&CocoCaption { id, image_id: coco_id, caption }));
        }
    }
    Entries {
        scene_graphs: to_json(&annotated_graph(seed, index, &depiction)),
        image_data: to_json(&image),
        captions: annotations.join(","),
    }
}

/// Entries of `images` for the COCO images among `chunk`.
fn coco_images(seed: u64, chunk: Range<u64>) -> String {
    let own = chunk.into_par_iter().filter(|&index| coco_role(seed, index) == CocoRole::Own);
    let entry = |index| {
        let (width, height) = image_size(seed, index);
        to_json(&CocoImage { id: coco_id(seed, index), width, height })
    };
    own.map(entry).collect::<Vec<_>>().join(",")
}

fn join_entries<'a>(entries: impl Iterator<Item = &'a str>) -> String {
    entries.filter(|entry| !entry.is_empty()).collect::<Vec<_>>().join(",")
}

fn to_json(entry: &impl Serialize) -> String {
    serde_json::to_string(entry).expect("entries have string keys and no failing parts")
}

/// A file under a temporary name, plain or gzip-compressed.
struct Output {
    /// Final name of the file, for messages.
    path: PathBuf,
    encoder: Encoder,
}

enum Encoder {
    Plain(BufWriter<Temporary>),
    Gzip(GzEncoder<BufWriter<Temporary>>),
}

impl Output {
    fn create(path: &Path, gzip: bool) -> Result<Output> {
        let file = BufWriter::new(Temporary::beside(path).map_err(Error::file("create", path))?);
        let encoder = match gzip {
            true => Encoder::Gzip(GzEncoder::new(file, Compression::default())),
            false => Encoder::Plain(file),
        };
        Ok(Output { path: path.to_path_buf(), encoder })
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = match &mut self.encoder {
            Encoder::Plain(file) => file.write_all(text.as_bytes()),
            Encoder::Gzip(file) => file.write_all(text.as_bytes()),
        };
        written.map_err(Error::file("write", &self.path))
    }

    /// Writes entries after the previous ones.
    fn write_entries(&mut self, separator: &mut &str, entries: &str) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        self.write(separator)?;
        *separator = ",\n";
        self.write(entries)
    }

    /// Flushes to disk, so that the final name never refers to an incomplete file.
    fn finish(self) -> Result<Temporary> {
        let complete = || -> io::Result<Temporary> {
            let buffer = match self.encoder {
                Encoder::Plain(file) => file,
                Encoder::Gzip(file) => file.finish()?,
            };
            let mut file = buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.file().sync_all()?;
            Ok(file)
        };
        complete().map_err(Error::file("write", &self.path))
    }
}
