//! Oddities of a raw file that are not errors, counted while the file is read.

use serde::Serialize;

/// Number of oddities, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Oddities {
    /// Objects without a name; they have no type.
    pub objects_without_name: u64,
    /// Objects with a missing `x`, `y`, `w` or `h`.
    pub objects_without_box: u64,
    /// Boxes without width or height; they count as missing.
    pub boxes_without_area: u64,
    /// Objects with the id of an earlier object of the image; the first one counts.
    pub repeated_objects: u64,
    /// Relationships without a predicate; they have no type.
    pub relationships_without_predicate: u64,
    /// Relationships dropped because one of their objects is missing in the image.
    pub relationships_without_object: u64,
}
