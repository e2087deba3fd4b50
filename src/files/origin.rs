//! Origin of embeddings: the model that computed them, the data, and the image of each row.
//!
//! An Arrow file carries it in its schema. A `.npy` file has no place for it, so a small JSON file lies beside it:
//! `all.npy.json` for `all.npy`. It also has a checksum of the `.npy` file and of the description itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::files::atomic_file::write_atomically;
use crate::files::mapped_file::MappedFile;
use crate::{Error, Result};

/// Version of the description, and the first key of the file beside a `.npy` file.
const VERSION: u32 = 1;

/// Origin of a file of embeddings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    /// Version of this description.
    scenerank_embeddings: u32,
    /// Identity of the model's parameters, in hexadecimal.
    pub model: String,
    /// Fingerprint of the data, in hexadecimal.
    pub data: String,
    /// XXH3 checksum of the `.npy` file, followed by the other values of this description; 128 bits in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    /// `[rows]` Visual Genome id of each row's image. Not in the schema of an Arrow file, which has a column of ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_ids: Vec<u64>,
    /// The rows are graphs from a file of graphs, not images of a data file. `data` is then the fingerprint of these graphs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_graphs: bool,
    /// `[rows]` file of each row's image, if the file of graphs names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_files: Vec<String>,
}

impl Origin {
    /// Origin of rows that `model` computed for the images `image_ids` of `data`.
    pub fn new(model: String, data: String, image_ids: Vec<u64>) -> Self {
        let (of_graphs, image_files) = (false, Vec::new());
        Origin {
            scenerank_embeddings: VERSION,
            model,
            data,
            checksum: None,
            image_ids,
            of_graphs,
            image_files,
        }
    }

    /// Like [`Origin::new`], for graphs of a file whose images may be named by `image_files`.
    pub fn of_graphs(model: String, data: String, ids: Vec<u64>, image_files: Vec<String>) -> Self {
        Origin { of_graphs: true, image_files, ..Origin::new(model, data, ids) }
    }

    /// Path of the description of the file at `path`.
    pub fn beside(path: &Path) -> PathBuf {
        let mut name = OsString::from(path);
        name.push(".json");
        name.into()
    }

    /// Writes the description of the `.npy` file at `path`, which is complete.
    pub fn write_beside(mut self, path: &Path) -> Result<()> {
        self.checksum = Some(self.checksum_with(path)?);
        let json = serde_json::to_vec(&self).expect("plain fields");
        write_atomically(Self::beside(path), |file| file.write_all(&json))
    }

    /// Reads the description of the `.npy` file at `path`, and checks that the file is the one that it describes. `None` if it has
    /// no description.
    pub fn read_beside(path: &Path) -> Result<Option<Origin>> {
        const REMEDY: &str = "write both files again with `scenerank embed`";
        let beside = Self::beside(path);
        if !beside.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&beside).map_err(Error::file("read", &beside))?;
        let origin: Origin = serde_json::from_slice(&text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            Error::invalid(&beside, place, "not a description of embeddings", REMEDY)
        })?;
        if origin.scenerank_embeddings != VERSION {
            let problem =
                format!("is version {}, this program reads version {VERSION}", origin.scenerank_embeddings);
            return Err(Error::invalid(&beside, "scenerank-embeddings", problem, REMEDY));
        }
        if origin.checksum.as_deref() != Some(&origin.checksum_with(path)?) {
            let problem = format!("differs from the checksum in {}", beside.display());
            return Err(Error::invalid(path, "content", problem, REMEDY));
        }
        Ok(Some(origin))
    }

    /// Checksum of the file at `path` and of this description.
    fn checksum_with(&self, path: &Path) -> Result<String> {
        let mut sum = Xxh3Default::new();
        sum.update(&MappedFile::open(path)?);
        sum.update(&self.scenerank_embeddings.to_le_bytes());
        // Each text is hashed alone first, to 16 bytes. Otherwise the end of one could pass for the beginning of the next.
        [&self.model, &self.data]
            .iter()
            .for_each(|text| sum.update(&xxh3_128(text.as_bytes()).to_le_bytes()));
        self.image_ids.iter().for_each(|id| sum.update(&id.to_le_bytes()));
        if self.of_graphs {
            sum.update(b"graphs");
            self.image_files.iter().for_each(|file| sum.update(&xxh3_128(file.as_bytes()).to_le_bytes()));
        }
        Ok(format!("{:032x}", sum.digest128()))
    }

    /// JSON without ids, for the schema of an Arrow file.
    pub fn to_schema_entry(&self) -> String {
        let without_ids = Origin { image_ids: Vec::new(), image_files: Vec::new(), ..self.clone() };
        serde_json::to_string(&without_ids).expect("plain fields")
    }
}

/// XXH3 checksum of a file, 128 bits in hexadecimal.
pub fn checksum(path: &Path) -> Result<String> {
    Ok(format!("{:032x}", xxh3_128(&MappedFile::open(path)?)))
}
