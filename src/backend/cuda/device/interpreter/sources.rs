//! PTX of the kernels: embedded by the build, or files in a folder.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::GzDecoder;
use scenerank_ptx::device::{Kernels, parse_kernels};

use super::{FOLDER, NAME};
use crate::error::{Error, Result};

/// PTX of one architecture.
struct Embedded {
    /// Such as `90a`.
    architecture: &'static str,
    /// Text of each kernel file, with its name; compressed if the build found gzip.
    files: &'static [(&'static str, &'static [u8])],
}

/// PTX by architecture, ascending; empty if the build found no nvcc, or was for installation.
static EMBEDDED: &[Embedded] = &include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// Registers and shared memory of each kernel and architecture, as the compiler reported them; empty without nvcc.
static RESOURCES: &str = include_str!(concat!(env!("OUT_DIR"), "/kernel_resources.csv"));

fn problem(problem: String, remedy: &str) -> Error {
    Error::Device { device: NAME.into(), problem, remedy: remedy.into() }
}

/// Error of a program for installation. What follows it under `cfg!(installed)` is unreachable, so that the linker leaves the
/// interpreter out.
pub(super) fn left_out() -> Error {
    problem(
        "this program was built for installation, without the PTX interpreter".into(),
        "build it with nvcc by `cargo build --profile profiling`, or use --device cpu",
    )
}

/// Architectures of the embedded PTX, ascending.
pub fn architectures() -> Vec<&'static str> {
    EMBEDDED.iter().map(|embedded| embedded.architecture).collect()
}

/// PTX of each kernel file by name, for this architecture or the latest one.
pub fn texts(architecture: Option<&str>) -> Result<Vec<(String, String)>> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return read_folder(Path::new(&folder));
    }
    let Some(latest) = EMBEDDED.last() else {
        return Err(problem(
            "this build found no nvcc, which makes the PTX".into(),
            "install the CUDA toolkit (12.8 or later) and build again, or use --device emulated",
        ));
    };
    let found = match architecture {
        None => Some(latest),
        Some(name) => EMBEDDED.iter().find(|embedded| embedded.architecture == name),
    };
    let Some(embedded) = found else {
        let asked = architecture.unwrap_or_default();
        let known = architectures().join(" and ");
        return Err(problem(
            format!("there is no PTX for {asked}, only for {known}"),
            &format!("set {} to one of these, or unset it", super::ARCHITECTURE),
        ));
    };
    embedded.files.iter().map(|(name, bytes)| Ok((name.to_string(), expand(bytes)?))).collect()
}

fn expand(bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    let read = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => GzDecoder::new(bytes).read_to_string(&mut text),
        false => (&mut &*bytes).read_to_string(&mut text),
    };
    read.map_err(|error| problem(format!("the embedded PTX is damaged: {error}"), "build again"))?;
    Ok(text)
}

fn read_folder(folder: &Path) -> Result<Vec<(String, String)>> {
    let failed = |error: std::io::Error| {
        problem(format!("{}: {error}", folder.display()), "give SCENERANK_PTX_DIR a folder of *.ptx")
    };
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "ptx") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            texts.push((name, std::fs::read_to_string(&path).map_err(failed)?));
        }
    }
    Ok(texts)
}

/// Parsed kernels for this architecture, or for the latest one. They are parsed once per process.
pub fn kernels(architecture: Option<&str>) -> Result<Arc<Kernels>> {
    if cfg!(installed) {
        return Err(left_out());
    }
    static PARSED: Mutex<Vec<(Option<String>, Arc<Kernels>)>> = Mutex::new(Vec::new());
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, kernels)) = parsed.iter().find(|(of, _)| of.as_deref() == architecture) {
        return Ok(kernels.clone());
    }
    let texts = texts(architecture)?;
    let kernels = parse_kernels(texts.iter().map(|(_, text)| text.as_str()));
    let kernels = kernels.map_err(|error| {
        problem(format!("the interpreter does not know this PTX: {error}"), "use --device emulated")
    })?;
    let kernels = Arc::new(kernels);
    parsed.push((architecture.map(str::to_string), kernels.clone()));
    Ok(kernels)
}

/// What a thread and a block of a kernel take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of static and dynamic shared memory per block.
    pub shared_bytes: u32,
}

/// Resources by kernel, for the latest architecture of the build up to sm_90; empty without nvcc.
pub fn resources() -> HashMap<String, Resources> {
    let rows = RESOURCES.lines().map(|line| line.split(',').collect::<Vec<&str>>());
    let of_row = |row: Vec<&str>| {
        let [kernel, architecture, registers, shared, ..] = row[..] else { return None };
        let is_known = matches!(architecture, "sm_80" | "sm_90" | "sm_90a");
        let of = Resources { registers: registers.parse().ok()?, shared_bytes: shared.parse().ok()? };
        is_known.then_some((kernel.to_string(), of))
    };
    // Rows of a later architecture replace earlier ones.
    rows.filter_map(of_row).collect()
}
