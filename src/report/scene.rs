//! A scene to be drawn, and its drawing.

use serde::Serialize;

use crate::data::object_box::{ImageSize, ObjectBox};

/// A scene without its image node.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Names of the objects.
    pub objects: &'a [String],
    /// Subject, name of the predicate, object; subject and object are indices into `objects`.
    pub relationships: &'a [(usize, String, usize)],
    /// The picture that the objects were seen in, if it is known.
    pub frame: Option<Frame<'a>>,
}

/// The picture that a scene was seen in.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The image's size.
    pub size: ImageSize,
    /// `[objects]`: the box of each object, if it has one.
    pub boxes: &'a [Option<ObjectBox>],
}

/// A scene as SVG.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Drawing {
    /// Width in pixels.
    pub width: f64,
    /// Height in pixels.
    pub height: f64,
    /// The elements inside `<svg>`; classes `node`, `alone`, `name`, `arrow`, `predicate`, and of boxes `frame`,
    /// `box`, `ground`, `tone-0` to `tone-5`, leave colours to the page.
    pub elements: String,
}
