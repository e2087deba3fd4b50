//! An object's `x`, `y`, `w`, `h`, which Visual Genome and GQA name alike: pixels, any of them perhaps absent or null.

use super::oddities::Oddities;
use crate::data::object_box::{Corners, NO_CORNERS};

/// The fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawBox {
    pub x: Option<f64>,
    pub y: Option<f64>,
    pub w: Option<f64>,
    pub h: Option<f64>,
}

impl RawBox {
    /// Its borders in whole pixels; what is no box is counted.
    pub fn corners(self, oddities: &mut Oddities) -> Corners {
        let RawBox { x: Some(x), y: Some(y), w: Some(w), h: Some(h) } = self else {
            oddities.objects_without_box += 1;
            return NO_CORNERS;
        };
        // A cast keeps to the type's range.
        let [left, top, right, bottom] = [x, y, x + w, y + h].map(|at| at.round() as i16);
        if right <= left || bottom <= top {
            oddities.boxes_without_area += 1;
            return NO_CORNERS;
        }
        [left, top, right, bottom]
    }
}
