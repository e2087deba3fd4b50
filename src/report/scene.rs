//! Input and output of scene drawings.

use serde::Serialize;

use crate::data::object_box::{ImageSize, ObjectBox};

/// A scene without its image node.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Names of the objects.
    pub objects: &'a [String],
    /// Subject, name of the predicate, object; subject and object are indices into `objects`.
    pub relationships: &'a [(usize, String, usize)],
    /// A number for each object whose name a page marks, or empty if it marks none. Number n becomes the class `kn`.
    pub kinds: &'a [Option<usize>],
    /// Image in which the objects were annotated, if it is known.
    pub frame: Option<Frame<'a>>,
}

impl Scene<'_> {
    /// Class of an object's name, after a space; empty if the page does not mark it.
    pub(super) fn class(&self, object: usize) -> String {
        self.kinds.get(object).copied().flatten().map_or(String::new(), |kind| format!(" k{kind}"))
    }
}

/// Image in which a scene was annotated.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Size of the image.
    pub size: ImageSize,
    /// `[objects]` box of each object, if it has one.
    pub boxes: &'a [Option<ObjectBox>],
}

/// Drawing of a scene as SVG.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Drawing {
    /// Width in pixels.
    pub width: f64,
    /// Height in pixels.
    pub height: f64,
    /// Elements inside `<svg>`. The page defines the colours of their classes: `node`, `alone`, `name`,
    /// `arrow`, `predicate`, and for boxes `frame`, `box`, `ground`, `tone-0` to `tone-5`; also those of [`Scene::kinds`].
    pub elements: String,
}
