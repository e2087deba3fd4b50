//! Where an object is in its image, and the image's size, in pixels from the upper left corner.
//!
//! Annotators draw boxes of no area and boxes that pass the image's border, and files leave boxes out: what is no box is
//! none here, and what passes the border is cut there.

use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// An image's size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSize {
    /// Pixels, at least 1.
    pub width: u16,
    /// Pixels, at least 1.
    pub height: u16,
}

/// An object's box in pixels; all of it lies within the image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable, Serialize)]
pub struct ObjectBox {
    /// Its left border.
    pub x: u16,
    /// Its upper border.
    pub y: u16,
    /// At least 1.
    pub width: u16,
    /// At least 1.
    pub height: u16,
}

/// A box as annotated: left, upper, right and lower border, perhaps outside of the image.
pub type Corners = [i16; 4];

/// Stands for "no box".
pub const NO_CORNERS: Corners = [0; 4];

impl ImageSize {
    /// A size as a file gives it; `None` where it gives none or one that no box can be in.
    pub fn new(width: Option<f64>, height: Option<f64>) -> Option<Self> {
        let side = |length: Option<f64>| {
            length.map(f64::round).filter(|length| (1.0..=f64::from(i16::MAX)).contains(length))
        };
        Some(ImageSize { width: side(width)? as u16, height: side(height)? as u16 })
    }
}

impl ObjectBox {
    /// Numbers of a box in a section of a data file.
    pub const NUMBERS: usize = 4;
    /// What stands there for an object without a box.
    pub const NONE: ObjectBox = ObjectBox { x: 0, y: 0, width: 0, height: 0 };

    /// The part of a box within the image, `None` where there is nothing of it.
    pub fn within(corners: Corners, size: ImageSize) -> Option<Self> {
        let [left, top, right, bottom] = corners;
        let across = |at: i16| at.clamp(0, size.width as i16) as u16;
        let down = |at: i16| at.clamp(0, size.height as i16) as u16;
        let (x, y) = (across(left), down(top));
        let (width, height) = (across(right).saturating_sub(x), down(bottom).saturating_sub(y));
        (width > 0 && height > 0).then_some(ObjectBox { x, y, width, height })
    }

    /// Its borders: left, upper, right, lower.
    pub fn corners(&self) -> Corners {
        let far = |near: u16, length: u16| i16::try_from(u32::from(near) + u32::from(length));
        let (right, bottom) = (far(self.x, self.width), far(self.y, self.height));
        [self.x as i16, self.y as i16, right.unwrap_or(i16::MAX), bottom.unwrap_or(i16::MAX)]
    }

    /// Whether all of it, with an area, is within an image of this size.
    pub fn fits(&self, size: ImageSize) -> bool {
        let ends = |near: u16, length: u16, side: u16| {
            length > 0 && u32::from(near) + u32::from(length) <= u32::from(side)
        };
        ends(self.x, self.width, size.width) && ends(self.y, self.height, size.height)
    }
}
