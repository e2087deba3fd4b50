//! What is odd in a raw file without being an error, counted while the file is read.

use serde::Serialize;

/// Peculiarities of a raw file that are no errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Oddities {
    /// Objects without a name; they are of no type.
    pub objects_without_name: u64,
    /// Objects of which `x`, `y`, `w` or `h` is missing.
    pub objects_without_box: u64,
    /// Boxes of no width or no height; their objects are without a box.
    pub boxes_without_area: u64,
    /// Objects whose id an earlier object of the image has; the first one counts.
    pub repeated_objects: u64,
    /// Relationships without a predicate; they are of no type.
    pub relationships_without_predicate: u64,
    /// Relationships dropped because an end is not among the image's objects.
    pub relationships_without_object: u64,
}
