//! rank_merge: the cases of the bench for random ranks, some of them without rows.

use crate::support::agreement::agree;
use crate::support::cases::{check, columns, seeds};
use proptest::collection::vec;
use proptest::prelude::{Just, prop_oneof};
use scenerank::bench::cases::rank_merge::{RankColumns, statistics, sums};

#[test]
fn statistics_and_terms_are_those_over_all_rows() {
    let rows = vec(prop_oneof![1 => Just(0u32), 1 => Just(1u32), 4 => 2..=300u32], 2..=5);
    check(60, (rows, columns(), seeds()), |(rows, columns, seed)| {
        let of = RankColumns { rows, columns, seed };
        agree(seed, &statistics(of.clone()));
        agree(seed, &sums(of));
    });
}
