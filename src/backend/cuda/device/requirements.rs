//! What a feature needs of the driver and of the GPU. `docs/kernels.md` has the same table; a test compares them.

/// Lowest compute capability supported by the kernels: it introduced asynchronous copies and bf16.
pub(super) const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// Lowest compute capability on which a launch may begin before its predecessor has ended (`kernels/launch.cuh`).
pub(super) const OVERLAP_CAPABILITY: (i32, i32) = (9, 0);

/// Compute capability of the GPUs whose warpgroups multiply (`kernels/warpgroup.cuh`).
pub(super) const WARPGROUP_CAPABILITY: (i32, i32) = (9, 0);

/// Lowest PTX version of a kernel that waits for its predecessor. Kernels compiled for earlier GPUs must not overlap.
pub(super) const OVERLAP_PTX: i32 = 90;

/// Release of the toolkit that compiled the kernels, such as `13.0`.
pub(super) const TOOLKIT: &str = env!("SCENERANK_CUDA_TOOLKIT");

/// A feature of the driver that every run uses.
pub(super) struct Feature {
    /// Plural noun.
    pub what: &'static str,
    /// First driver that has it, as the CUDA version that it supports (1000 major + 10 minor).
    pub since: i32,
}

/// Features by the driver that they need, the latest first. Sources: the documentation of nvcc (`--compress-mode`), the
/// CUDA programming guide (edge data of graphs), and the driver's header of each release.
const FEATURES: [Feature; 4] = [
    Feature { what: "compressed kernels", since: 12_040 },
    Feature { what: "overlapping launches in graphs", since: 12_030 },
    Feature { what: "launches with attributes", since: 11_080 },
    Feature { what: "priorities of graph nodes", since: 11_070 },
];

/// Returns the feature that needs the latest driver, if a driver of this version lacks it.
pub(super) fn lacking(version: i32) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| version < feature.since)
}

/// A version in words, such as `12.4`.
pub(super) fn version_words(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_need_is_named() {
        assert!(FEATURES.is_sorted_by_key(|feature| -feature.since));
        for (version, what) in [
            (12_040, None),
            (13_000, None),
            (12_030, Some("compressed kernels")),
            (11_060, Some("compressed kernels")),
        ] {
            assert_eq!(lacking(version).map(|feature| feature.what), what, "{version}");
        }
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let documentation = include_str!("../../../../docs/kernels.md");
        for Feature { what, since } in &FEATURES {
            let row = format!("| {what} | {} |", version_words(*since));
            assert!(documentation.contains(&row), "no row that begins with {row:?}");
        }
    }
}
