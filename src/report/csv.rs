//! Comma-separated values (RFC 4180), for the numbers behind a plot.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use crate::Result;
use crate::atomic_file::write_atomically;

/// Writes a header and rows of as many fields; a field with a comma, quote or line break is quoted.
pub fn write_csv(path: &Path, header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    write_atomically(path, |file| {
        write_row(file, header.iter().copied())?;
        rows.iter().try_for_each(|row| {
            debug_assert_eq!(row.len(), header.len(), "csv: a field per column");
            write_row(file, row.iter().map(String::as_str))
        })
    })
}

fn write_row<'a>(file: &mut dyn Write, fields: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let fields: Vec<_> = fields.map(quoted).collect();
    writeln!(file, "{}", fields.join(","))
}

fn quoted(field: &str) -> Cow<'_, str> {
    if field.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", field.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(field)
    }
}
