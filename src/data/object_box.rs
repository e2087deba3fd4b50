//! Position of an object in its image, and the size of the image, in pixels from the upper left corner.
//!
//! Annotated boxes may be missing, have no area, or cross the border of the image. A box without area counts
//! as missing, and boxes are clipped at the border.

use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Size of an image in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSize {
    /// Width in pixels, at least 1.
    pub width: u16,
    /// Height in pixels, at least 1.
    pub height: u16,
}

/// Box of an object in pixels; it lies completely within the image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable, Serialize)]
pub struct ObjectBox {
    /// Left border.
    pub x: u16,
    /// Upper border.
    pub y: u16,
    /// Width, at least 1.
    pub width: u16,
    /// Height, at least 1.
    pub height: u16,
}

/// A box as annotated: left, upper, right and lower border, possibly outside of the image.
pub type Corners = [i16; 4];

/// Corners that stand for a missing box.
pub const NO_CORNERS: Corners = [0; 4];

impl ImageSize {
    /// Size as given by a file; `None` if it is missing or cannot contain a box.
    pub fn new(width: Option<f64>, height: Option<f64>) -> Option<Self> {
        let side = |length: Option<f64>| {
            length.map(f64::round).filter(|length| (1.0..=f64::from(i16::MAX)).contains(length))
        };
        Some(ImageSize { width: side(width)? as u16, height: side(height)? as u16 })
    }
}

impl ObjectBox {
    /// Number of values of a box in a data file.
    pub const NUMBERS: usize = 4;
    /// Value in a data file for an object without a box.
    pub const NONE: ObjectBox = ObjectBox { x: 0, y: 0, width: 0, height: 0 };

    /// Clips a box to the image; `None` if nothing remains.
    pub fn within(corners: Corners, size: ImageSize) -> Option<Self> {
        let [left, top, right, bottom] = corners;
        let across = |at: i16| at.clamp(0, size.width as i16) as u16;
        let down = |at: i16| at.clamp(0, size.height as i16) as u16;
        let (x, y) = (across(left), down(top));
        let (width, height) = (across(right).saturating_sub(x), down(bottom).saturating_sub(y));
        (width > 0 && height > 0).then_some(ObjectBox { x, y, width, height })
    }

    /// Borders: left, upper, right, lower.
    pub fn corners(&self) -> Corners {
        let far = |near: u16, length: u16| i16::try_from(u32::from(near) + u32::from(length));
        let (right, bottom) = (far(self.x, self.width), far(self.y, self.height));
        [self.x as i16, self.y as i16, right.unwrap_or(i16::MAX), bottom.unwrap_or(i16::MAX)]
    }

    /// Whether the box has an area and lies completely within an image of this size.
    pub fn fits(&self, size: ImageSize) -> bool {
        let ends = |near: u16, length: u16, side: u16| {
            length > 0 && u32::from(near) + u32::from(length) <= u32::from(side)
        };
        ends(self.x, self.width, size.width) && ends(self.y, self.height, size.height)
    }
}
