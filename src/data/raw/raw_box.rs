//! Fields `x`, `y`, `w`, `h` of an object, as in Visual Genome and GQA: pixels; each may be absent or null.

use super::oddities::Oddities;
use crate::data::object_box::{Corners, NO_CORNERS};

/// Box fields of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawBox {
    pub x: Option<f64>,
    pub y: Option<f64>,
    pub w: Option<f64>,
    pub h: Option<f64>,
}

impl RawBox {
    /// No box.
    pub const NONE: RawBox = RawBox { x: None, y: None, w: None, h: None };

    /// Borders in whole pixels. Counts missing boxes and boxes without area.
    pub fn corners(self, oddities: &mut Oddities) -> Corners {
        let RawBox { x: Some(x), y: Some(y), w: Some(w), h: Some(h) } = self else {
            oddities.objects_without_box += 1;
            return NO_CORNERS;
        };
        // The cast saturates at the limits of the type.
        let [left, top, right, bottom] = [x, y, x + w, y + h].map(|at| at.round() as i16);
        if right <= left || bottom <= top {
            oddities.boxes_without_area += 1;
            return NO_CORNERS;
        }
        [left, top, right, bottom]
    }
}
