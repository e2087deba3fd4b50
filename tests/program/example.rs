//! The examples run.

#[path = "../../examples/train_and_search.rs"]
mod train_and_search;

#[test]
fn train_and_search_runs_to_its_end() {
    train_and_search::main().unwrap();
}
