//! Feeds the reader that the environment variable `READER` names with libFuzzer's inputs. The readers are those of the tests.

#![no_main]

// Tests use more of it.
#[allow(dead_code)]
#[path = "../../tests/data/raw_files.rs"]
mod raw_files;
#[path = "../../tests/data/readers.rs"]
mod readers;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use readers::{Reader, Readers};

fuzz_target!(|bytes: &[u8]| {
    static READER: OnceLock<Reader> = OnceLock::new();
    let reader = READER.get_or_init(|| {
        let name = std::env::var("READER").expect("READER names a reader");
        Reader::named(&name).expect("READER is a name in fuzz/run.sh")
    });
    Readers::get().read(*reader, bytes);
});
