//! Drawing of a scene as its boxes, at their positions in the image.
//!
//! Large boxes lie behind small ones. A name is placed at its box where it covers no other name: preferably
//! along the upper border of the box, then inside, then around it. Small boxes choose first. An arrow
//! connects two boxes: from border to border if the boxes are apart, otherwise from or to the centre of a
//! box. The predicate is written along the arrow if there is room, and always in its title. Objects without a
//! box are listed in rows below the frame.

use std::io;

use askama::Template;

use super::scene::{Drawing, Frame, Scene};
use crate::data::object_box::ObjectBox;

/// Largest width and height of a frame in pixels; the frame is as large as possible within them.
const WIDTH: f64 = 400.0;
const HIGHEST: f64 = 420.0;
/// Margin around the frame and the rows.
const MARGIN: f64 = 1.0;
/// Height of a name's background.
const LABEL_HEIGHT: f64 = 15.0;
/// Average width of a letter in a name and in a predicate, and padding of a background.
const LETTER: f64 = 6.1;
const PREDICATE_LETTER: f64 = 5.2;
const PADDING: f64 = 7.0;
const PREDICATE_HEIGHT: f64 = 11.0;
const GAP: f64 = 5.0;
/// Longest name in letters. A longer one is cut with an ellipsis; its title has the whole name.
const LONGEST: usize = 20;
/// Number of box colours, which the page defines.
const TONES: usize = 6;
/// Distance between positions that are tried for a name.
const STEP: f64 = 8.0;
/// Distance below which the ends of an arrow are joined by a bow, so that it is visible.
const SHORT: f64 = 26.0;
/// Sideways bend of an arrow; each further arrow between the same boxes bends more.
const BEND: f64 = 9.0;
const PARALLEL_BEND: f64 = 16.0;
/// Positions along an arrow that are tried for its predicate.
const PREDICATE_PLACES: [f64; 5] = [0.5, 0.4, 0.6, 0.3, 0.7];

#[derive(Template)]
#[template(path = "scene_boxes.svg", escape = "html")]
struct Elements<'a> {
    frame: Area,
    /// Objects in drawing order, the largest first.
    objects: Vec<Object<'a>>,
    arrows: Vec<Arrow<'a>>,
}

struct Object<'a> {
    index: usize,
    name: &'a str,
    text: String,
    class: String,
    /// Box of the object, or its position in the rows below.
    area: Area,
    label: Area,
    boxed: bool,
    tone: usize,
}

struct Arrow<'a> {
    path: String,
    subject: &'a str,
    predicate: &'a str,
    object: &'a str,
    /// Position of the predicate, if there is room.
    label: Option<(f64, f64)>,
}

/// Axis-aligned rectangle, given by its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn middle(&self) -> (f64, f64) {
        (self.x + self.width / 2.0, self.y + self.height / 2.0)
    }

    fn size(&self) -> f64 {
        self.width * self.height
    }

    fn contains(&self, (x, y): (f64, f64)) -> bool {
        x >= self.x && x <= self.x + self.width && y >= self.y && y <= self.y + self.height
    }

    fn overlap(&self, other: &Area) -> f64 {
        let shared = |a: f64, a_length: f64, b: f64, b_length: f64| {
            ((a + a_length).min(b + b_length) - a.max(b)).max(0.0)
        };
        shared(self.x, self.width, other.x, other.width) * shared(self.y, self.height, other.y, other.height)
    }

    /// Moves the rectangle into `frame`.
    fn moved_into(mut self, frame: &Area) -> Self {
        self.x = self.x.min(frame.x + frame.width - self.width).max(frame.x);
        self.y = self.y.min(frame.y + frame.height - self.height).max(frame.y);
        self
    }

    /// Point at which the line from the centre towards `point` crosses the border.
    fn border_towards(&self, point: (f64, f64)) -> (f64, f64) {
        let (x, y) = self.middle();
        let (dx, dy) = (point.0 - x, point.1 - y);
        let across = self.width / 2.0 / dx.abs().max(1e-9);
        let down = self.height / 2.0 / dy.abs().max(1e-9);
        let scale = across.min(down).min(1.0);
        (x + dx * scale, y + dy * scale)
    }
}

/// Draws the scene in its image.
pub(super) fn draw(scene: Scene<'_>, frame: Frame<'_>) -> io::Result<Drawing> {
    let scale = (WIDTH / f64::from(frame.size.width)).min(HIGHEST / f64::from(frame.size.height));
    let picture = Area {
        x: MARGIN,
        y: MARGIN,
        width: f64::from(frame.size.width) * scale,
        height: f64::from(frame.size.height) * scale,
    };
    let mut objects: Vec<Object<'_>> = (0..scene.objects.len())
        .map(|index| {
            let found = frame.boxes.get(index).copied().flatten();
            Object { class: scene.class(index), ..Object::new(index, &scene.objects[index], found, scale) }
        })
        .collect();
    let rows_end = rows_below(&mut objects, picture.y + picture.height);
    place_names(&mut objects, &picture);
    let arrows = arrows(&objects, scene.relationships, &picture);
    let width = objects.iter().map(|object| object.label.x + object.label.width + MARGIN);
    let width = width.fold(picture.width + 2.0 * MARGIN, f64::max);
    objects.sort_by(|a, b| b.area.size().total_cmp(&a.area.size()));
    let elements = Elements { frame: picture, objects, arrows }.render().map_err(io::Error::other)?;
    Ok(Drawing { width, height: rows_end + MARGIN, elements })
}

impl<'a> Object<'a> {
    fn new(index: usize, name: &'a str, found: Option<ObjectBox>, scale: f64) -> Self {
        let text: String = match name.chars().count() > LONGEST {
            true => name.chars().take(LONGEST - 1).chain(['…']).collect(),
            false => name.to_owned(),
        };
        let width = text.chars().count() as f64 * LETTER + PADDING;
        let label = Area { x: 0.0, y: 0.0, width, height: LABEL_HEIGHT };
        let area = found.map_or(label, |found| Area {
            x: MARGIN + f64::from(found.x) * scale,
            y: MARGIN + f64::from(found.y) * scale,
            width: f64::from(found.width) * scale,
            height: f64::from(found.height) * scale,
        });
        Object {
            index,
            name,
            text,
            class: String::new(),
            area,
            label,
            boxed: found.is_some(),
            tone: index % TONES,
        }
    }
}

/// Places the objects without a box in rows, starting at `top`; returns the end of the rows.
fn rows_below(objects: &mut [Object<'_>], top: f64) -> f64 {
    let (mut x, mut y) = (MARGIN, top + GAP);
    let mut bottom = top;
    for object in objects.iter_mut().filter(|object| !object.boxed) {
        if x > MARGIN && x + object.label.width > WIDTH {
            (x, y) = (MARGIN, y + LABEL_HEIGHT + GAP);
        }
        (object.label.x, object.label.y) = (x, y);
        object.area = object.label;
        x += object.label.width + GAP;
        bottom = y + LABEL_HEIGHT;
    }
    bottom
}

/// Finds a position for each name; names of small boxes come first.
fn place_names(objects: &mut [Object<'_>], frame: &Area) {
    let mut order: Vec<usize> = (0..objects.len()).filter(|&index| objects[index].boxed).collect();
    order.sort_by(|&a, &b| objects[a].area.size().total_cmp(&objects[b].area.size()));
    let mut taken: Vec<Area> = Vec::with_capacity(order.len());
    for index in order {
        let Object { area, label, .. } = &objects[index];
        let place = place_name(area, label, frame, &taken);
        objects[index].label = place;
        taken.push(place);
    }
}

/// First position without an overlap, or the first of those with the least overlap. Tried in this order: along the
/// upper border of the box, inside and then outside; along the lower border; anywhere inside; then at increasing distance.
fn place_name(area: &Area, label: &Area, frame: &Area, taken: &[Area]) -> Area {
    let overlap = |place: &Area| taken.iter().map(|other| place.overlap(other)).sum::<f64>();
    let mut best: Option<(f64, Area)> = None;
    for place in places_at(area, label, frame) {
        let overlap = overlap(&place);
        if overlap == 0.0 {
            return place;
        }
        if best.is_none_or(|(least, _)| overlap < least) {
            best = Some((overlap, place));
        }
    }
    let (mut least, mut best) = best.expect("a place at least");
    // Positions anywhere in the frame, in any order: among equal overlaps the nearest to the middle of the box counts. A
    // farther one than the best free one needs no comparison with other names.
    let (x, y) =
        (area.x + area.width / 2.0 - label.width / 2.0, area.y + area.height / 2.0 - label.height / 2.0);
    let mut distance = 0.0;
    let (right, down) = ((frame.width / STEP) as usize, (frame.height / STEP) as usize);
    for row in 0..=down {
        for column in 0..=right {
            let (at_x, at_y) = (frame.x + column as f64 * STEP, frame.y + row as f64 * STEP);
            let apart = (at_x - x).powi(2) + (at_y - y).powi(2);
            if least == 0.0 && apart >= distance {
                continue;
            }
            let place = Area { x: at_x, y: at_y, ..*label }.moved_into(frame);
            let overlap = overlap(&place);
            if overlap < least || overlap == least && apart < distance {
                (least, best, distance) = (overlap, place, apart);
            }
        }
    }
    best
}

/// Positions for a name along the borders of its box and inside it.
fn places_at(area: &Area, label: &Area, frame: &Area) -> impl Iterator<Item = Area> {
    let steps = ((area.width - label.width).max(0.0) / STEP) as usize;
    let rows = [area.y, area.y - label.height, area.y + area.height - label.height, area.y + area.height];
    let (area, label, frame) = (*area, *label, *frame);
    let inside = (1..((area.height / STEP) as usize).max(1)).map(move |step| area.y + step as f64 * STEP);
    rows.into_iter().chain(inside).flat_map(move |y| {
        (0..=steps).map(move |step| Area { x: area.x + step as f64 * STEP, y, ..label }.moved_into(&frame))
    })
}

fn arrows<'a>(
    objects: &[Object<'a>],
    relationships: &'a [(usize, String, usize)],
    frame: &Area,
) -> Vec<Arrow<'a>> {
    let mut taken: Vec<Area> = objects.iter().map(|object| object.label).collect();
    let mut arrows = Vec::with_capacity(relationships.len());
    for (place, (subject, predicate, object)) in relationships.iter().enumerate() {
        let same_pair =
            |(s, _, o): &&(usize, String, usize)| (s, o) == (subject, object) || (s, o) == (object, subject);
        let parallel = relationships[..place].iter().filter(same_pair).count();
        let curve = match subject == object {
            true => Curve::around(&objects[*subject].area, parallel),
            false => Curve::between(&objects[*subject].area, &objects[*object].area, parallel),
        };
        let width = predicate.chars().count() as f64 * PREDICATE_LETTER + 2.0;
        let ground = |(x, y): (f64, f64)| Area {
            x: x - width / 2.0,
            y: y - PREDICATE_HEIGHT / 2.0,
            width,
            height: PREDICATE_HEIGHT,
        };
        let free =
            |at: &Area| *at == at.moved_into(frame) && taken.iter().all(|other| at.overlap(other) == 0.0);
        let found = PREDICATE_PLACES.map(|part| ground(curve.at(part))).into_iter().find(free);
        taken.extend(found);
        arrows.push(Arrow {
            path: curve.path(),
            subject: objects[*subject].name,
            predicate,
            object: objects[*object].name,
            label: found.map(|ground| ground.middle()),
        });
    }
    arrows
}

/// Quadratic Bezier curve.
struct Curve {
    start: (f64, f64),
    middle: (f64, f64),
    end: (f64, f64),
}

impl Curve {
    fn between(from: &Area, to: &Area, parallel: usize) -> Self {
        let (from_middle, to_middle) = (from.middle(), to.middle());
        // Inside another box, the arrow must not end at a border: it would not be visible where it leaves or
        // reaches its own box.
        let start = if from.contains(to_middle) { from_middle } else { from.border_towards(to_middle) };
        let end = if to.contains(from_middle) { to_middle } else { to.border_towards(from_middle) };
        let (dx, dy) = (end.0 - start.0, end.1 - start.1);
        let length = dx.hypot(dy);
        let (along_x, along_y) = if length > 1e-6 { (dx / length, dy / length) } else { (1.0, 0.0) };
        let side = if parallel.is_multiple_of(2) { 1.0 } else { -1.0 };
        let bend = side * (BEND + PARALLEL_BEND * parallel.div_ceil(2) as f64 + (SHORT - length).max(0.0));
        let middle = ((start.0 + end.0) / 2.0 + along_y * bend, (start.1 + end.1) / 2.0 - along_x * bend);
        Curve { start, middle, end }
    }

    /// A loop out of the upper border and back.
    fn around(area: &Area, parallel: usize) -> Self {
        let (x, y) = (area.middle().0 + 14.0 * parallel as f64, area.y);
        let (left, right) = ((x - 8.0).max(area.x), (x + 8.0).min(area.x + area.width));
        Curve { start: (left, y), middle: (x, y + 2.0 * SHORT), end: (right.max(left), y) }
    }

    fn at(&self, part: f64) -> (f64, f64) {
        let mix = |start: f64, middle: f64, end: f64| {
            (1.0 - part).powi(2) * start + 2.0 * part * (1.0 - part) * middle + part.powi(2) * end
        };
        (mix(self.start.0, self.middle.0, self.end.0), mix(self.start.1, self.middle.1, self.end.1))
    }

    fn path(&self) -> String {
        let Curve { start, middle, end } = self;
        format!("M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}", start.0, start.1, middle.0, middle.1, end.0, end.1)
    }
}
