//! Positions of the objects in a synthetic image: sizes by category, positions by relationships.
//!
//! The first relationship of a pair that can be placed decides. Its object is placed where its category
//! usually is (sky above, ground below, furniture on the ground). Its subject is placed beside, on, above or
//! within it, according to the predicate. Objects without relationships are placed where their category
//! usually is. Later relationships between placed objects are ignored, since real annotations do not always
//! fit either.

use super::object::Object;
use super::scene_model::SceneModel;

/// Smallest width and height of a box in pixels.
const LEAST: f64 = 8.0;
/// Overlap of an object with the things that stand on it, as a share of its height.
const SINK: f64 = 0.12;

/// A box in pixels, upper left corner first.
#[derive(Clone, Copy, Debug)]
struct Place {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

/// Position of the subject relative to the object, according to the predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    On,
    Above,
    Below,
    LeftOf,
    RightOf,
    Within,
    /// The object is within the subject.
    Around,
    /// The object is at the subject's hand.
    Holding,
    Behind,
    InFront,
    Near,
}

impl Relation {
    /// Relation of a lower-case predicate.
    fn of(predicate: &str) -> Self {
        let first = predicate.split(' ').next().unwrap_or_default();
        let last = predicate.rsplit(' ').next().unwrap_or_default();
        match predicate {
            "to the left of" => return Relation::LeftOf,
            "to the right of" => return Relation::RightOf,
            "has" | "wearing" | "wears" | "with" | "containing" | "full of" | "filled with" => {
                return Relation::Around;
            }
            "in front of" | "parked in front of" | "blocking" => return Relation::InFront,
            "part of" | "of" | "worn by" | "covering" | "among" => return Relation::Within,
            "in the air above" => return Relation::Above,
            "on top of" | "crossing" | "riding" | "driving" => return Relation::On,
            _ => {}
        }
        match (first, last) {
            ("holding" | "carrying" | "eating" | "using" | "swinging" | "throwing" | "catching", _) => {
                Relation::Holding
            }
            (_, "above" | "over") => Relation::Above,
            (_, "below" | "under") => Relation::Below,
            (_, "behind") => Relation::Behind,
            (_, "in" | "inside" | "into" | "through") => Relation::Within,
            (_, "on" | "down" | "along" | "across") => Relation::On,
            _ => Relation::Near,
        }
    }
}

/// Width and height of an object as shares of the image's, and the usual range of its lower edge, by the name
/// of the category. Parts and rarities have no category.
fn usual(category: Option<&str>, name: &str) -> (f64, f64, std::ops::Range<f64>) {
    match name {
        "wall" | "forest" => return (0.96, 0.62, 0.62..0.7),
        "ceiling" => return (0.98, 0.2, 0.2..0.22),
        "cloud" | "sun" | "moon" | "light" => return (0.24, 0.12, 0.15..0.35),
        "picture" | "window" | "clock" | "mirror" | "poster" | "sign" => return (0.17, 0.22, 0.3..0.5),
        "floor" | "rug" | "carpet" => return (0.94, 0.26, 0.96..1.0),
        "table" | "counter" | "bed" | "sofa" => return (0.55, 0.34, 0.86..0.98),
        _ => {}
    }
    match category {
        Some("person") => (0.19, 0.56, 0.86..0.97),
        Some("animal") => (0.27, 0.27, 0.78..0.95),
        Some("vehicle") => (0.4, 0.29, 0.74..0.9),
        Some("furniture") => (0.3, 0.32, 0.8..0.96),
        Some("appliance") => (0.2, 0.26, 0.55..0.85),
        Some("structure") => (0.3, 0.42, 0.6..0.78),
        Some("plant") => (0.22, 0.36, 0.62..0.84),
        Some("ground") => (0.95, 0.3, 0.97..1.0),
        Some("sky") => (0.9, 0.3, 0.3..0.34),
        Some("clothing") => (0.11, 0.13, 0.45..0.8),
        Some("container") => (0.1, 0.13, 0.55..0.9),
        Some("food") => (0.12, 0.1, 0.6..0.88),
        Some("gear") => (0.12, 0.12, 0.4..0.85),
        _ => (0.09, 0.1, 0.35..0.9),
    }
}

/// Sets the boxes of `objects` in an image of `size`, using the random numbers that each object has drawn.
/// `triples` are (subject, predicate, object).
pub(super) fn place(objects: &mut [Object], triples: &[(usize, String, usize)], size: (u32, u32)) {
    let (width, height) = (f64::from(size.0), f64::from(size.1));
    let alone: Vec<Place> = objects.iter().map(|object| alone(object, width, height)).collect();
    let mut places: Vec<Option<Place>> = vec![None; objects.len()];
    for (subject, predicate, object) in triples {
        let (subject, object) = (*subject, *object);
        let relation = Relation::of(&predicate.to_lowercase());
        if subject == object {
            continue;
        }
        // The actor is the more specific object, so whatever is held or worn moves to it, not the reverse.
        let carries = matches!(relation, Relation::Around | Relation::Holding);
        if places[subject].is_none() && places[object].is_none() {
            let anchor = if carries { subject } else { object };
            places[anchor] = Some(alone[anchor]);
        }
        let draws = objects[if places[subject].is_none() { subject } else { object }].draws;
        match (places[subject], places[object]) {
            (None, Some(anchor)) => {
                places[subject] = Some(beside(relation, alone[subject], anchor, draws, (width, height)));
            }
            (Some(anchor), None) => {
                let inverse = match relation {
                    Relation::On | Relation::Above => Relation::Below,
                    Relation::Below => Relation::Above,
                    Relation::LeftOf => Relation::RightOf,
                    Relation::RightOf => Relation::LeftOf,
                    Relation::Within => Relation::Around,
                    Relation::Around => Relation::Within,
                    Relation::Behind => Relation::InFront,
                    Relation::InFront => Relation::Behind,
                    other => other,
                };
                places[object] = Some(beside(inverse, alone[object], anchor, draws, (width, height)));
            }
            _ => {}
        }
    }
    for ((object, place), alone) in objects.iter_mut().zip(places).zip(alone) {
        let Place { x, y, w, h } = place.unwrap_or(alone);
        let (w, h) = (w.clamp(LEAST, width).round(), h.clamp(LEAST, height).round());
        let (x, y) = (x.clamp(0.0, width - w).round(), y.clamp(0.0, height - h).round());
        (object.x, object.y, object.w, object.h) = (x as u32, y as u32, w as u32, h as u32);
    }
}

/// Position of an object without a placed relationship.
fn alone(object: &Object, width: f64, height: f64) -> Place {
    let category = object.category.map(|category| SceneModel::get().categories[category].name.as_str());
    let (w, h, lower) = usual(category, &object.names[0].to_lowercase());
    let [across, down, wide, high] = object.draws;
    let w = width * (w * (0.7 + 0.6 * wide)).min(1.0);
    let h = height * (h * (0.75 + 0.5 * high)).min(1.0);
    let bottom = height * (lower.start + (lower.end - lower.start) * down);
    Place { x: across * (width - w), y: (bottom - h).max(0.0), w, h }
}

/// Moves `own` to the position given by `relation` to `anchor`, and shrinks it if there is no room.
fn beside(relation: Relation, own: Place, anchor: Place, draws: [f64; 4], frame: (f64, f64)) -> Place {
    let [across, down, ..] = draws;
    let (mut w, mut h) = (own.w, own.h);
    let within = |near: f64, far: f64, length: f64, share: f64| near + (far - near - length) * share;
    let (right, bottom) = (anchor.x + anchor.w, anchor.y + anchor.h);
    let (x, y) = match relation {
        Relation::Within => {
            (w, h) = (w.min(anchor.w * 0.6), h.min(anchor.h * 0.6));
            (within(anchor.x, right, w, across), within(anchor.y, bottom, h, down))
        }
        Relation::Around => {
            (w, h) = (w.max(anchor.w * 1.4).min(frame.0), h.max(anchor.h * 1.4).min(frame.1));
            (within(anchor.x, right, w, across), within(anchor.y, bottom, h, down))
        }
        Relation::On => {
            // On the ground an object stands within it, on a table on its edge.
            let stands_in = anchor.w > 0.8 * frame.0;
            let base = if stands_in {
                anchor.y + anchor.h * (0.25 + 0.6 * down)
            } else {
                anchor.y + anchor.h * SINK
            };
            h = h.min(base.max(LEAST));
            if !stands_in {
                w = w.min(anchor.w * 1.1);
            }
            (within(anchor.x, right, w, across), base - h)
        }
        Relation::Above => {
            h = h.min(anchor.y.max(LEAST));
            (within(anchor.x, right, w, across), (anchor.y - h) * (0.6 + 0.4 * down))
        }
        Relation::Below => {
            let room = (frame.1 - anchor.y - anchor.h * SINK).max(LEAST);
            h = h.min(room);
            (within(anchor.x, right, w, across), anchor.y + anchor.h * (1.0 - SINK))
        }
        Relation::LeftOf => {
            w = w.min(anchor.x.max(LEAST));
            ((anchor.x - w) * (0.5 + 0.5 * across), bottom - h)
        }
        Relation::RightOf => {
            w = w.min((frame.0 - right).max(LEAST));
            (right + (frame.0 - right - w).max(0.0) * 0.5 * across, bottom - h)
        }
        Relation::Holding => {
            let hand = if across < 0.5 { anchor.x } else { right };
            (hand - w / 2.0, anchor.y + anchor.h * (0.3 + 0.2 * down) - h / 2.0)
        }
        Relation::Behind | Relation::InFront => {
            let sink = if relation == Relation::Behind { -0.15 } else { 0.15 };
            let side = if across < 0.5 { -0.45 } else { 0.45 };
            (
                anchor.x + anchor.w / 2.0 - w / 2.0 + side * (anchor.w + w) / 2.0,
                bottom - h + sink * h.min(anchor.h),
            )
        }
        Relation::Near => {
            let left = if anchor.x > w { across < 0.5 } else { across < 0.2 };
            let x = if left { anchor.x - w * 1.02 } else { right + w * 0.02 };
            (x, bottom - h * (0.9 + 0.2 * down))
        }
    };
    Place { x, y, w, h }
}
