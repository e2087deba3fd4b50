//! Family of the products of an open device.
//!
//! All products of an open device use one family. bf16 and bf16x3 have two: mma.sync on every GPU, and wgmma on GPUs of compute
//! capability 9.0. The user names one ([`Kernels`]), or leaves the choice to such a GPU:
//!
//! ```text
//! the choice for this GPU, driver, program and format is kept: take it                  (kept.rs)
//! otherwise, on small random arrays, for every kind of product and every tile:
//!     wgmma's results within the format's error of mma.sync's, or take mma.sync         (products.rs, layer.rs)
//! the products of one layer of a batch of about the run's size, captured, by both families in turn:
//!     wgmma's median time is the smaller one, or take mma.sync                          (contest.rs)
//! keep the choice for batches of this size
//! ```

mod contest;
mod kept;
mod layer;
mod products;

use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::identity::Identity;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::kernels::Kernels;
use crate::error::{Error, Result};
use crate::terminal::visible;
use contest::{Arrays, Contest, Families};
use kept::{Keeper, Kept};

/// Number of triples of a batch in the paper.
pub const PAPER_TRIPLES: usize = 16;

/// Numbers of triples of the batches that are timed. Beyond the last one a launch has so many blocks that their number no longer
/// matters.
const TIMED_TRIPLES: [usize; 3] = [PAPER_TRIPLES, 64, 256];

/// The timed number of triples that is nearest to a batch's, as a ratio.
fn timed_triples(triples: usize) -> usize {
    let is_below = |timed: &usize| *timed <= triples.saturating_mul(2);
    TIMED_TRIPLES.into_iter().rfind(is_below).unwrap_or(PAPER_TRIPLES)
}

/// What a choice is for: a format by mma.sync, and batches of about so many triples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Purpose {
    format: Format,
    triples: usize,
}

impl Purpose {
    fn new(format: Format, triples: usize) -> Self {
        Purpose { format, triples: timed_triples(triples) }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = if self.format == Format::Bf16x3 { "bf16x3" } else { "bf16" };
        write!(f, "{precision}, {} triples", self.triples)
    }
}

/// A choice between the families, and why it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The family: mma or wgmma.
    pub kernels: Kernels,
    /// What decided, in words that follow "since".
    pub reason: String,
}

impl Choice {
    fn mma(reason: impl Into<String>) -> Self {
        Choice { kernels: Kernels::Mma, reason: reason.into() }
    }

    /// The choice in a sentence.
    pub fn words(&self) -> String {
        let name = if self.kernels == Kernels::Wgmma { "wgmma" } else { "mma.sync" };
        format!("kernels auto: {name}, since {}", visible(&self.reason))
    }
}

/// Format of the products of `device` for a format by mma.sync, or by the named family. Fails if the device lacks that. With
/// `auto`, the device chooses for batches of about so many triples.
pub(crate) fn format_of(device: &Device, format: Format, kernels: Kernels, triples: usize) -> Result<Format> {
    if format.is_of_warpgroups() && !format.runs_on(device) {
        return Err(Error::argument(
            "--kernels",
            format!("{} has no machine code of the products by wgmma", device.properties()?.name),
            "use --kernels mma, or a GPU of compute capability 9.0 and a build for 90a",
        ));
    }
    match format.by_warpgroups() {
        Some(by_warpgroups) if kernels == Kernels::Auto => match choice(device, format, triples)? {
            Some(Choice { kernels: Kernels::Wgmma, .. }) => Ok(by_warpgroups),
            _ => Ok(format),
        },
        _ => Ok(format),
    }
}

/// What `auto` chooses on this device for a format by mma.sync and batches of about so many triples; `None` on a device, or for a
/// format, without a choice. Every call for a GPU, a format and a size returns the same choice. The first one that is mma.sync is
/// logged.
pub fn choice(device: &Device, format: Format, triples: usize) -> Result<Option<Choice>> {
    static MADE: Mutex<Vec<(Identity, Purpose, Choice)>> = Mutex::new(Vec::new());
    let Some(by_warpgroups) = format.by_warpgroups() else { return Ok(None) };
    let Some(identity) = device.warpgroup_identity()? else { return Ok(None) };
    let purpose = Purpose::new(format, triples);
    // One check at a time: another would disturb the times.
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((.., choice)) = made.iter().find(|(of, what, _)| (of, *what) == (&identity, purpose)) {
        return Ok(Some(choice.clone()));
    }
    let keeper = Keeper::new(kept::folder().as_deref(), &identity, purpose);
    let choice = match by_warpgroups {
        _ if !by_warpgroups.runs_on(device) => Choice::mma("this build has no machine code for 90a"),
        Format::Bf16x3Warpgroup => decided(device, &keeper, Families::BF16X3, purpose)?,
        _ => decided(device, &keeper, Families::BF16, purpose)?,
    };
    if choice.kernels == Kernels::Mma {
        tracing::warn!("{}", choice.words());
    }
    made.push((identity.clone(), purpose, choice.clone()));
    Ok(Some(choice))
}

/// The choice between these families, for a format whose values are stored as `T`.
fn decided<T: StoredElement>(
    device: &Device,
    keeper: &Keeper<'_>,
    families: Families<T>,
    purpose: Purpose,
) -> Result<Choice> {
    choose(keeper, || Arrays::new(device, families, purpose.triples), Arrays::hold)
}

/// The choice that is kept, or the one that a contest decides, which is then kept. `prepare` makes the contest's arrays.
fn choose<A>(
    keeper: &Keeper<'_>,
    prepare: impl FnOnce() -> Result<A>,
    hold: impl FnOnce(A) -> Result<Contest>,
) -> Result<Choice> {
    match keeper.kept() {
        Some(Kept::Choice(choice)) => return Ok(choice),
        Some(Kept::Unfinished) => {
            let remedy = keeper.remedy();
            return Ok(Choice::mma(format!(
                "an earlier check of wgmma did not end; {remedy} to check again"
            )));
        }
        None => {}
    }
    let failed = |error: Error| {
        let problem = format!("the check of the products by wgmma failed: {error}");
        Error::argument("--kernels", problem, "use --kernels mma")
    };
    // Memory that is missing now says nothing about the kernels.
    let arrays = prepare().map_err(failed)?;
    // A kernel that faults or hangs ends this process. What is kept then says so to the next one.
    keeper.keep(&Kept::Unfinished);
    let choice = hold(arrays).map_err(failed)?.decide();
    keeper.keep(&Kept::Choice(choice.clone()));
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::path::Path;

    use super::products::{Difference, Output, Product};
    use super::*;
    use tempfile::TempDir;

    fn identity() -> Identity {
        let word = |word: &str| word.to_string();
        Identity { name: word("H"), id: word("0a1b"), driver: word("CUDA 13.0"), program: word("0.1.0 1") }
    }

    /// A contest that wgmma wins, or loses.
    fn contest(wins: bool) -> Contest {
        let (product, output) = (Product::Forward, Output::Y);
        let difference = Difference { product, output, columns: 148, by: 0.0, limit: 1.0 };
        let seconds = Some(if wins { [2e-4, 1e-4] } else { [1e-4, 2e-4] });
        Contest { difference, seconds, triples: 16 }
    }

    /// The choice of a process with a cache in `folder` at 16 triples, and whether it held a contest, which wgmma wins or loses.
    fn chosen(folder: Option<&Path>, identity: &Identity, wins: bool) -> (Kernels, bool) {
        chosen_for(Purpose::new(Format::Bf16, 16), folder, identity, wins)
    }

    fn chosen_for(
        purpose: Purpose,
        folder: Option<&Path>,
        identity: &Identity,
        wins: bool,
    ) -> (Kernels, bool) {
        let held = Cell::new(false);
        let hold = |()| {
            held.set(true);
            Ok(contest(wins))
        };
        let keeper = Keeper::new(folder, identity, purpose);
        (choose(&keeper, || Ok(()), hold).unwrap().kernels, held.get())
    }

    fn file(folder: &Path) -> std::path::PathBuf {
        folder.join("kernels-0a1b.json")
    }

    #[test]
    fn a_choice_is_kept_for_the_same_gpu_driver_and_program() {
        let place = TempDir::new().unwrap();
        // The folder is created.
        let folder = &place.path().join("cache/scenerank");
        assert_eq!(chosen(Some(folder), &identity(), true), (Kernels::Wgmma, true));
        assert_eq!(chosen(Some(folder), &identity(), false), (Kernels::Wgmma, false));
        let word = || String::from("other");
        for other in [
            Identity { name: word(), ..identity() },
            Identity { driver: word(), ..identity() },
            Identity { program: word(), ..identity() },
        ] {
            assert_eq!(chosen(Some(folder), &other, false), (Kernels::Mma, true), "{other:?}");
            assert_eq!(chosen(Some(folder), &other, true), (Kernels::Mma, false), "{other:?}");
        }
        // Another GPU has its own file.
        assert_eq!(chosen(Some(folder), &identity(), true), (Kernels::Wgmma, true));
        let other = Identity { id: word(), ..identity() };
        assert_eq!(chosen(Some(folder), &other, false), (Kernels::Mma, true));
        assert_eq!(chosen(Some(folder), &identity(), false), (Kernels::Wgmma, false));
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2);
    }

    #[test]
    fn each_format_and_size_of_a_batch_has_its_choice() {
        let place = TempDir::new().unwrap();
        let folder = Some(place.path());
        let purposes = [(Format::Bf16, 16, false), (Format::Bf16, 64, true), (Format::Bf16, 256, true)];
        for (format, triples, wins) in purposes.into_iter().chain([(Format::Bf16x3, 16, true)]) {
            let (purpose, kernels) =
                (Purpose::new(format, triples), if wins { Kernels::Wgmma } else { Kernels::Mma });
            assert_eq!(chosen_for(purpose, folder, &identity(), wins), (kernels, true), "{purpose:?}");
            assert_eq!(chosen_for(purpose, folder, &identity(), !wins), (kernels, false), "{purpose:?}");
        }
        assert_eq!(chosen(folder, &identity(), true), (Kernels::Mma, false));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        let timed = [0, 1, 16, 31, 32, 100, 127, 128, 1_024, usize::MAX].map(timed_triples);
        assert_eq!(timed, [16, 16, 16, 16, 64, 64, 64, 256, 256, 256]);
    }

    #[test]
    fn a_file_that_is_no_choice_is_replaced() {
        let folder = TempDir::new().unwrap();
        let path = file(folder.path());
        assert_eq!(chosen(Some(folder.path()), &identity(), true), (Kernels::Wgmma, true));
        let right = fs::read_to_string(&path).unwrap();
        let half = &right[..right.len() / 2];
        let of_auto = right.replace("\"wgmma\"", "\"auto\"");
        let large = " ".repeat(100_000) + &right;
        for damaged in ["", "{}", "null", "not JSON", half, &of_auto, &large, "\u{1b}[2J\0"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(chosen(Some(folder.path()), &identity(), true), (Kernels::Wgmma, true), "{damaged}");
            assert_eq!(fs::read_to_string(&path).unwrap(), right);
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(chosen(Some(folder.path()), &identity(), true), (Kernels::Wgmma, true));
    }

    #[test]
    fn nothing_is_kept_where_that_is_impossible() {
        for _ in 0..2 {
            assert_eq!(chosen(None, &identity(), true), (Kernels::Wgmma, true));
        }
        let folder = TempDir::new().unwrap();
        // A file in the place of the folder, which no user may replace.
        let occupied = folder.path().join("scenerank");
        fs::write(&occupied, "").unwrap();
        // A folder in the place of the file.
        fs::create_dir_all(file(folder.path()).join("of it")).unwrap();
        for place in [&occupied, folder.path()] {
            for _ in 0..2 {
                assert_eq!(chosen(Some(place), &identity(), true), (Kernels::Wgmma, true));
            }
        }
    }

    /// A check that faults ends the process; the next one must not fault again.
    #[test]
    fn a_check_that_did_not_end_is_not_repeated() {
        let folder = TempDir::new().unwrap();
        let failing = |problem| Err(Error::argument("a call", problem, "look at it"));
        // Without memory there was no check.
        let prepare = || failing("out of memory");
        let identity = identity();
        let [keeper, of_others] = [16, 64]
            .map(|triples| Keeper::new(Some(folder.path()), &identity, Purpose::new(Format::Bf16, triples)));
        let error = choose(&keeper, prepare, |()| panic!("a check")).unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
        assert!(!file(folder.path()).exists());
        let hold = |()| failing("an illegal address").map(|()| contest(true));
        let error = choose(&keeper, || Ok(()), hold).unwrap_err().to_string();
        assert!(error.contains("--kernels") && error.contains("an illegal address"), "{error}");
        assert!(error.contains("use --kernels mma"), "{error}");
        let second = |()| panic!("a second check");
        let remedy = format!("remove {} to check again", file(folder.path()).display());
        for keeper in [&keeper, &of_others] {
            let next = choose(keeper, || Ok(()), second).unwrap();
            assert_eq!(next.kernels, Kernels::Mma);
            assert!(next.reason.contains("did not end") && next.reason.contains(&remedy), "{}", next.reason);
        }
        // While another process checks, this one does too.
        let text = fs::read_to_string(file(folder.path())).unwrap();
        let other = text.replace(&std::process::id().to_string(), "1");
        fs::write(file(folder.path()), other).unwrap();
        let is_linux = Path::new("/proc/1").exists();
        assert_eq!(chosen(Some(folder.path()), &identity, true).1, is_linux);
    }

    #[test]
    fn devices_without_a_choice_have_none() {
        let Ok(device) = crate::backend::cuda::launchers::emulated(None) else { return };
        assert_eq!(choice(&device, Format::Bf16, 16).unwrap(), None);
        let format = |format, kernels| format_of(&device, format, kernels, 16).unwrap();
        assert_eq!(format(Format::Bf16, Kernels::Auto), Format::Bf16);
        assert_eq!(format(Format::Bf16x3, Kernels::Auto), Format::Bf16x3);
        for by_warpgroups in [Format::Bf16Warpgroup, Format::Bf16x3Warpgroup] {
            assert_eq!(format(by_warpgroups, Kernels::Wgmma), by_warpgroups);
        }
    }

    #[test]
    fn a_kept_reason_cannot_control_the_terminal() {
        let words = Choice::mma("\u{1b}[2J").words();
        assert!(!words.contains('\u{1b}'), "{words:?}");
    }
}
