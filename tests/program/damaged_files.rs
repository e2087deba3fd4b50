//! Data files, checkpoints and embedding files that are cut short or have a flipped bit: every one is refused in one line.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::Result;
use scenerank::data::Dataset;
use scenerank::evaluation::EmbeddingsFile;
use scenerank::files::origin::Origin;
use scenerank::train::checkpoint::{self, BEST, LAST};

use crate::program::{SMALL_NETWORK, Workplace, run};

/// Reads a file, and that beside it.
type Read = fn(&Path) -> Result<()>;

/// Number of refused files: cut short, and with a flipped bit.
struct Refused {
    cut: usize,
    flipped: usize,
}

/// Cuts the file to every `step`th length, and flips `flips` random bits, one at a time. Each must be refused by `read`, which
/// opens `opened`.
fn damage(path: &Path, opened: &Path, read: Read, step: usize, flips: usize) -> Refused {
    let good = fs::read(path).unwrap();
    read(opened).unwrap();
    let refused = |what: String| {
        let result = catch_unwind(AssertUnwindSafe(|| read(opened)));
        match result.unwrap_or_else(|_| panic!("{}: {what}: panicked", path.display())) {
            Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
            Ok(()) => panic!("{}: {what}: accepted", path.display()),
        }
    };
    let file = File::options().write(true).open(path).unwrap();
    let mut cut = 0;
    for length in (0..good.len()).rev().step_by(step) {
        file.set_len(length as u64).unwrap();
        refused(format!("cut to {length} bytes"));
        cut += 1;
    }
    fs::write(path, &good).unwrap();
    let mut random = StdRng::seed_from_u64(3);
    use std::os::unix::fs::FileExt;
    for _ in 0..flips {
        let (at, bit) = (random.random_range(0..good.len()), random.random_range(0..8));
        file.write_at(&[good[at] ^ 1 << bit], at as u64).unwrap();
        refused(format!("bit {bit} of byte {at}"));
        file.write_at(&good[at..=at], at as u64).unwrap();
    }
    read(opened).unwrap();
    Refused { cut, flipped: flips }
}

fn all(step: usize, flips: usize) {
    let work = Workplace::new();
    let data = work.data.display().to_string();
    let folder = work.text("run");
    run([
        &["train", &data, "--out", &folder, "--epochs", "1", "--device", "cpu", "-q"][..],
        &SMALL_NETWORK[..],
    ]
    .concat());
    let embeddings = work.text("all.npy");
    run(["embed", &folder, "--out", &embeddings, "--format", "npy", "-q"]);
    let embeddings = Path::new(&embeddings);
    let read_embeddings: Read = |path| {
        let origin = Origin::read_beside(path)?;
        EmbeddingsFile::open(path)?;
        // Without a description the program asks for consent.
        let missing = || scenerank::Error::invalid(path, "origin", "is missing", "write it again");
        origin.map(|_| ()).ok_or_else(missing)
    };
    let read_checkpoint: Read = |path| checkpoint::load(path).map(|_| ());
    let [last, best] = [LAST, BEST].map(|name| work.path("run").join(name));
    let beside = Origin::beside(embeddings);
    // As commands open it, which verify the images that they use.
    let mapped = work.path("mapped.data");
    fs::copy(&work.data, &mapped).unwrap();
    let read_images: Read = |path| {
        let data = Dataset::map(path)?;
        data.verify(0..data.image_count())
    };
    // One thread for each group. The last two files are read together.
    let groups: [&[(&Path, &Path, Read)]; 5] = [
        &[(&work.data, &work.data, |path| Dataset::open(path).map(|_| ()))],
        &[(&mapped, &mapped, read_images)],
        &[(&last, &last, read_checkpoint)],
        &[(&best, &best, read_checkpoint)],
        &[(embeddings, embeddings, read_embeddings), (&beside, embeddings, read_embeddings)],
    ];
    std::thread::scope(|scope| {
        for group in groups {
            scope.spawn(move || {
                for &(path, opened, read) in group {
                    let Refused { cut, flipped } = damage(path, opened, read, step, flips);
                    let name = path.file_name().unwrap().display();
                    println!("{name}: {cut} cut short and {flipped} with a flipped bit, all refused");
                }
            });
        }
    });
}

#[test]
fn files_that_are_cut_short_or_have_a_flipped_bit_are_refused() {
    all(61, 300);
}

#[test]
#[ignore = "the long form, for .ci/full"]
fn every_length_and_ten_thousand_flipped_bits_are_refused() {
    all(1, 10_000);
}
