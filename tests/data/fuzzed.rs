//! Readers on changed inputs: random changes of valid files, and the interesting inputs that fuzzing has found (`fuzz/inputs`).

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::readers::{Reader, Readers};

/// What numbers, names and brackets are exchanged for.
const PIECES: [&[u8]; 24] = [
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775808",
    b"NaN",
    b"null",
    b"true",
    b"\"\"",
    b"\"\\ud800\"",
    b"[",
    b"]",
    b"{",
    b"}",
    b"[[[[[[[[[[[[[[[[",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"\n",
    b",",
    b":",
    b"\x1f\x8b\x08",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
];

/// Changes a few places of `bytes`.
fn change(mut bytes: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..12usize)).min(bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = random.random_range(0..=bytes.len());
                drop(bytes.splice(to..to, piece));
            }
            4 => {
                let piece = PIECES[random.random_range(0..PIECES.len())];
                drop(bytes.splice(at..end, piece.iter().copied()));
            }
            // A word: up to the next character that is neither letter nor digit.
            _ => {
                let word = bytes[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
                let piece = PIECES[random.random_range(0..PIECES.len())];
                drop(bytes.splice(at..at + word, piece.iter().copied()));
            }
        }
    }
    bytes
}

fn read(reader: Reader, bytes: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| Readers::get().read(reader, bytes))).is_err() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzzed-{}", reader.name()));
        fs::write(&path, bytes).unwrap();
        panic!("{}: {what}; the input is in {}", reader.name(), path.display());
    }
}

/// `count` random changes for each reader.
fn changed(count: usize) {
    for (number, reader) in Reader::ALL.iter().copied().enumerate() {
        let valid = Readers::get().valid(reader);
        let mut random = StdRng::seed_from_u64(number as u64);
        read(reader, &valid, "valid");
        for turn in 0..count {
            read(reader, &change(valid.clone(), &mut random), &format!("change {turn}"));
        }
        println!("{}: {count} changed inputs read or refused", reader.name());
    }
}

#[test]
fn changed_inputs_are_read_or_refused_in_one_line() {
    changed(150);
}

#[test]
#[ignore = "the long form, for .ci/full"]
fn a_hundred_thousand_changed_inputs_are_read_or_refused_in_one_line() {
    changed(100_000 / Reader::ALL.len());
}

#[test]
fn what_fuzzing_found_is_read_or_refused_in_one_line() {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/inputs");
    let mut count = 0;
    for folder in fs::read_dir(inputs).unwrap().flatten() {
        let name = folder.file_name().into_string().unwrap();
        let reader = Reader::named(&name).unwrap_or_else(|| panic!("no reader {name}"));
        for input in fs::read_dir(folder.path()).unwrap().flatten() {
            read(reader, &fs::read(input.path()).unwrap(), &input.path().display().to_string());
            count += 1;
        }
    }
    assert!(count > 0);
}
