//! Division of a product among threads.

use super::view::{MatMut, MatRef};

/// Least number of tasks per thread, so that all finish together.
const TASKS_PER_THREAD: usize = 2;

/// Rows of a product, and of its left operand.
pub struct Task<'a, T> {
    pub c: MatMut<'a, T>,
    pub a: MatRef<'a, T>,
    /// Number of the product's rows before these.
    pub first_row: usize,
}

impl<T: Copy + Send + Sync> Task<'_, T> {
    /// Runs parts of this task on all of rayon's threads. A part has at most `most_rows` rows, and all but the last one have
    /// whole tiles of `tile_rows`. Their numbers of tiles differ by one at most; the number of parts is a multiple of that of
    /// threads, if there are as many tiles.
    pub fn in_parts(self, tile_rows: usize, most_rows: usize, run: &(impl Fn(Task<'_, T>) + Sync)) {
        let threads = rayon::current_num_threads();
        let (tiles, most_tiles) = (self.c.rows().div_ceil(tile_rows), most_rows / tile_rows);
        let parts = tiles.div_ceil(most_tiles).max(threads * TASKS_PER_THREAD).next_multiple_of(threads);
        self.split(tile_rows, parts.min(tiles), run);
    }

    fn split(self, tile_rows: usize, parts: usize, run: &(impl Fn(Task<'_, T>) + Sync)) {
        if parts <= 1 {
            return run(self);
        }
        let Task { c, a, first_row } = self;
        let above = parts / 2;
        let middle = c.rows().div_ceil(tile_rows) * above / parts * tile_rows;
        let (c_top, c_bottom) = c.split_at_row(middle);
        let (a_top, a_bottom) = (a.row_range(0..middle), a.row_range(middle..a.rows()));
        let top = Task { c: c_top, a: a_top, first_row };
        let bottom = Task { c: c_bottom, a: a_bottom, first_row: first_row + middle };
        rayon::join(|| top.split(tile_rows, above, run), || bottom.split(tile_rows, parts - above, run));
    }
}
