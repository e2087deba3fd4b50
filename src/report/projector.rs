//! Embeddings with their names for TensorBoard's projector: tab-separated tables, and `projector_config.pbtxt`, which
//! names them.

use std::path::Path;

use crate::Result;
use crate::files::atomic_file::write_atomically;

/// Most rows of a table: the projector draws all of them in a browser.
const MOST_ROWS: usize = 5000;
/// File that the projector looks for in a run folder.
const CONFIG: &str = "projector_config.pbtxt";

/// Embeddings to show.
pub struct Projected<'a> {
    /// Name in the projector, and beginning of the files' names.
    pub name: &'a str,
    /// `[rows, width]` embeddings.
    pub values: &'a [f32],
    /// `[rows]` name of each row.
    pub names: Vec<String>,
}

/// Writes the tables of all sets, with at most 5,000 rows of each.
pub fn write_projector(folder: &Path, sets: &[Projected<'_>], width: usize) -> Result<()> {
    let mut config = String::new();
    for Projected { name, values, names } in sets {
        let [table, labels] = [format!("projector-{name}.tsv"), format!("projector-{name}-names.tsv")];
        write_atomically(folder.join(&table), |file| {
            values.chunks_exact(width).take(MOST_ROWS).try_for_each(|row| {
                let numbers: Vec<String> = row.iter().map(f32::to_string).collect();
                writeln!(file, "{}", numbers.join("\t"))
            })
        })?;
        // Without a header, as for every table of one column.
        write_atomically(folder.join(&labels), |file| {
            names.iter().take(MOST_ROWS).try_for_each(|name| {
                let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                writeln!(file, "{name}")
            })
        })?;
        config.push_str(&format!(
            "embeddings {{\n  tensor_name: \"{name}\"\n  tensor_path: \"{table}\"\n  metadata_path: \"{labels}\"\n}}\n"
        ));
    }
    write_atomically(folder.join(CONFIG), |file| file.write_all(config.as_bytes()))
}
