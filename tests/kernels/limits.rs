//! Sizes beyond what kernels can count are refused before anything is allocated.

use scenerank::backend::cuda::device::kernel::{Blocks, MOST, MOST_THREADS};
use scenerank::backend::cuda::launchers::batch_norm::CHUNK_ROWS;
use scenerank::backend::cuda::launchers::batch_places::{MOST_ROWS, Places, check_capacity};
use scenerank::batch::graph_batch::BatchSize;
use scenerank::network::config::ModelConfig;

/// Largest number of threads of a block, and of values that each handles.
const BLOCK: usize = 1024 * 4;

fn size(nodes: usize, edges: usize) -> BatchSize {
    BatchSize { graphs: 3 << 20, nodes, edges }
}

#[test]
fn larger_batches_are_refused_in_one_line() {
    assert_eq!(MOST_ROWS, 4_194_240);
    check_capacity(ModelConfig::PAPER, size(MOST_ROWS, MOST_ROWS)).unwrap();
    for (nodes, edges, what) in [(10, MOST_ROWS + 1, "edges"), (usize::MAX, 10, "nodes")] {
        let error = check_capacity(ModelConfig::PAPER, size(nodes, edges)).unwrap_err().to_string();
        assert!(error.starts_with("--batch-size: a batch may have "), "{error}");
        let end = format!(" {what}, and the kernels take at most 4194240; lower it, or use --device cpu");
        assert!(error.ends_with(&end) && !error.contains('\n'), "{error}");
    }
    // In a wide network the number of values decides.
    let wide = ModelConfig { hidden_width: 1 << 14, ..ModelConfig::PAPER };
    let error = check_capacity(wide, size(1000, MOST_ROWS)).unwrap_err().to_string();
    assert!(error.contains("the kernels take at most 519531;"), "{error}");
}

/// What kernels compute in `int` and `unsigned` for the largest batch, by formula.
#[test]
fn counts_of_the_largest_batch_fit_their_types() {
    let int = i32::MAX as usize;
    assert!(MOST + BLOCK <= int && MOST_THREADS + 1024 <= u32::MAX as usize);
    // Entries 2 edge + role, and rows rounded up to chunks.
    assert!(2 * MOST_ROWS + BLOCK <= int && MOST_ROWS.next_multiple_of(CHUNK_ROWS) <= int);
    // Chunks of lists, one block each, of 64 entries: edges by predicate, messages by object.
    assert!(3 * MOST_ROWS / 64 + 2 * MOST_ROWS <= int);
    // Positions in a slot.
    assert!(Places::new(ModelConfig::PAPER, size(MOST_ROWS, MOST_ROWS)).slot_len() <= MOST);
    // A warp per anchor when triples are drawn.
    const { assert!(MOST_THREADS / 32 > 100_000_000) };
    assert_eq!(MOST_ROWS.div_ceil(CHUNK_ROWS), Blocks::MOST[1]);
}

#[test]
#[should_panic(expected = "a grid of (1, 65536, 1) blocks")]
fn a_grid_that_is_too_high_is_never_launched() {
    Blocks::new(1, 65_536, 1);
}
