//! Plain-text tables of results for a terminal or a log.

pub use comfy_table::Table;
use comfy_table::{CellAlignment, TableComponent};

/// Creates a table with these column names. The first column is left-aligned; the others, numbers, are
/// right-aligned.
pub fn plain_table<T: Into<comfy_table::Cell>>(header: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    let header: Vec<comfy_table::Cell> = header.into_iter().map(Into::into).collect();
    table.load_preset(comfy_table::presets::NOTHING).set_style(TableComponent::HeaderLines, '-');
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        // Two spaces between columns, none at the edges.
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
