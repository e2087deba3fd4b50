//! A scene graph drawn as nodes and arrows, small enough for a gallery.
//!
//! The objects that relationships touch are laid out by forces (Fruchterman and Reingold 1991: all nodes repel each other,
//! the ends of an arrow attract each other), in a fixed number of steps from a fixed start, so that a graph always looks
//! the same; then boxes that overlap are pushed apart. Objects without a relationship stand in rows below.

use std::io;

use askama::Template;

/// The canvas' width in pixels; its height follows from the scene.
const WIDTH: f64 = 380.0;
const MARGIN: f64 = 6.0;
/// Of a node's box.
const HEIGHT: f64 = 20.0;
/// Width of a letter at the font size in use, on average, and of a box' padding.
const LETTER: f64 = 6.3;
const PADDING: f64 = 14.0;
/// Between boxes.
const GAP: f64 = 5.0;
/// A longer name ends in an ellipsis; the whole one is in its title.
const LONGEST: usize = 22;
const FORCE_STEPS: usize = 300;
const APART_STEPS: usize = 120;

/// A scene without its image node.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Names of the objects.
    pub objects: &'a [String],
    /// Subject, predicate's name, object; ends are indices of `objects`.
    pub relationships: &'a [(usize, String, usize)],
}

/// A scene as SVG.
#[derive(Clone, Debug, Default)]
pub struct Drawing {
    /// Pixels.
    pub width: f64,
    /// Pixels.
    pub height: f64,
    /// The elements inside `<svg>`; classes `node`, `alone`, `name`, `arrow`, `predicate` leave colours to the page.
    pub elements: String,
}

#[derive(Template)]
#[template(path = "scene.svg", escape = "html")]
struct Elements<'a> {
    boxes: Vec<Box<'a>>,
    arrows: Vec<Arrow<'a>>,
}

/// A node; x and y are its middle.
struct Box<'a> {
    name: &'a str,
    text: String,
    x: f64,
    y: f64,
    width: f64,
    connected: bool,
}

/// From a box' edge to another's, bent so that arrows between one pair do not hide each other.
struct Arrow<'a> {
    path: String,
    predicate: &'a str,
    x: f64,
    y: f64,
}

impl Box<'_> {
    fn left(&self) -> f64 {
        self.x - self.width / 2.0
    }

    fn top(&self) -> f64 {
        self.y - HEIGHT / 2.0
    }
}

/// Draws the scene.
pub fn draw(scene: Scene<'_>) -> io::Result<Drawing> {
    let mut boxes: Vec<Box<'_>> = scene.objects.iter().map(|name| Box::new(name)).collect();
    for &(subject, _, object) in scene.relationships {
        boxes[subject].connected = true;
        boxes[object].connected = true;
    }
    let connected: Vec<usize> = (0..boxes.len()).filter(|&index| boxes[index].connected).collect();
    let height = 40.0 + 30.0 * connected.len() as f64;
    attract_and_repel(&mut boxes, &connected, scene.relationships, height);
    push_apart(&mut boxes, &connected, height);
    let bottom = trim(&mut boxes, &connected);
    let height = rows_below(&mut boxes, bottom);
    let arrows = scene
        .relationships
        .iter()
        .enumerate()
        .map(|(index, (subject, predicate, object))| {
            let parallel = scene.relationships[..index]
                .iter()
                .filter(|(s, _, o)| (s, o) == (subject, object) || (s, o) == (object, subject))
                .count();
            arrow(&boxes[*subject], &boxes[*object], predicate, parallel)
        })
        .collect();
    let elements = Elements { boxes, arrows }.render().map_err(io::Error::other)?;
    Ok(Drawing { width: WIDTH, height, elements })
}

impl<'a> Box<'a> {
    fn new(name: &'a str) -> Self {
        let text = match name.chars().count() > LONGEST {
            true => name.chars().take(LONGEST - 1).chain(['…']).collect(),
            false => name.to_owned(),
        };
        let width = text.chars().count() as f64 * LETTER + PADDING;
        Box { name, text, x: 0.0, y: 0.0, width, connected: false }
    }
}

/// Moves the connected boxes by forces, in a canvas of this height.
fn attract_and_repel(
    boxes: &mut [Box<'_>],
    connected: &[usize],
    relationships: &[(usize, String, usize)],
    height: f64,
) {
    let count = connected.len().max(1) as f64;
    // An ellipse to start from, none of whose points lie on one line.
    for (place, &index) in connected.iter().enumerate() {
        let angle = std::f64::consts::TAU * (place as f64 + 0.3) / count;
        boxes[index].x = WIDTH / 2.0 + WIDTH / 3.0 * angle.cos();
        boxes[index].y = height / 2.0 + height / 3.0 * angle.sin();
    }
    // The distance at which two connected nodes rest.
    let rest = (0.5 * WIDTH * height / count).sqrt();
    for step in 0..FORCE_STEPS {
        let longest = 0.1 * WIDTH * (1.0 - step as f64 / FORCE_STEPS as f64);
        let mut forces = vec![(0.0, 0.0); boxes.len()];
        for &a in connected {
            for &b in connected.iter().filter(|&&b| b != a) {
                let (dx, dy) = (boxes[a].x - boxes[b].x, boxes[a].y - boxes[b].y);
                let distance = dx.hypot(dy).max(1.0);
                let force = rest * rest / (distance * distance);
                forces[a].0 += dx * force;
                // Boxes are wider than high.
                forces[a].1 += dy * force * 0.6;
            }
        }
        for &(a, _, b) in relationships.iter().filter(|(a, _, b)| a != b) {
            let (dx, dy) = (boxes[a].x - boxes[b].x, boxes[a].y - boxes[b].y);
            let force = dx.hypot(dy) / rest;
            (forces[a].0, forces[a].1) = (forces[a].0 - dx * force, forces[a].1 - dy * force);
            (forces[b].0, forces[b].1) = (forces[b].0 + dx * force, forces[b].1 + dy * force);
        }
        for &index in connected {
            let (fx, fy) = forces[index];
            let length = fx.hypot(fy).max(1e-9);
            let scale = length.min(longest) / length;
            boxes[index].x += fx * scale;
            boxes[index].y += fy * scale;
            keep_inside(&mut boxes[index], height);
        }
    }
}

fn keep_inside(node: &mut Box<'_>, height: f64) {
    let half = node.width / 2.0 + MARGIN;
    node.x = node.x.clamp(half, (WIDTH - half).max(half));
    node.y = node.y.clamp(HEIGHT / 2.0 + MARGIN, height - HEIGHT / 2.0 - MARGIN);
}

/// Moves overlapping boxes away from each other, along the shorter way; room for an arrow's label between them.
fn push_apart(boxes: &mut [Box<'_>], connected: &[usize], height: f64) {
    for _ in 0..APART_STEPS {
        for (place, &a) in connected.iter().enumerate() {
            for &b in &connected[place + 1..] {
                let (dx, dy) = (boxes[b].x - boxes[a].x, boxes[b].y - boxes[a].y);
                let overlap_x = (boxes[a].width + boxes[b].width) / 2.0 + GAP - dx.abs();
                let overlap_y = HEIGHT + 3.0 * GAP - dy.abs();
                if overlap_x <= 0.0 || overlap_y <= 0.0 {
                    continue;
                }
                if overlap_x < overlap_y {
                    let shift = overlap_x / 2.0 * if dx < 0.0 { -1.0 } else { 1.0 };
                    (boxes[a].x, boxes[b].x) = (boxes[a].x - shift, boxes[b].x + shift);
                } else {
                    let shift = overlap_y / 2.0 * if dy < 0.0 { -1.0 } else { 1.0 };
                    (boxes[a].y, boxes[b].y) = (boxes[a].y - shift, boxes[b].y + shift);
                }
                keep_inside(&mut boxes[a], height);
                keep_inside(&mut boxes[b], height);
            }
        }
    }
}

/// Moves the connected boxes to the canvas' top; gives where they end.
fn trim(boxes: &mut [Box<'_>], connected: &[usize]) -> f64 {
    let top = connected.iter().map(|&index| boxes[index].top()).fold(f64::INFINITY, f64::min);
    let mut bottom = MARGIN;
    for &index in connected {
        boxes[index].y += MARGIN - top;
        bottom = bottom.max(boxes[index].top() + HEIGHT);
    }
    bottom
}

/// Sets the other boxes in rows from `top` on; gives the canvas' height.
fn rows_below(boxes: &mut [Box<'_>], top: f64) -> f64 {
    let (mut x, mut y) = (MARGIN, top + 2.0 * GAP);
    let mut bottom = top + MARGIN;
    for node in boxes.iter_mut().filter(|node| !node.connected) {
        if x > MARGIN && x + node.width > WIDTH - MARGIN {
            (x, y) = (MARGIN, y + HEIGHT + GAP);
        }
        node.x = x + node.width / 2.0;
        node.y = y + HEIGHT / 2.0;
        x += node.width + GAP;
        bottom = y + HEIGHT + MARGIN;
    }
    bottom
}

fn arrow<'a>(from: &Box<'_>, to: &Box<'_>, predicate: &'a str, parallel: usize) -> Arrow<'a> {
    if std::ptr::eq(from, to) {
        let (x, y) = (from.x, from.top());
        let path = format!("M{:.1} {y:.1}c-14 -18 14 -18 8 0", x - 4.0 - 8.0 * parallel as f64);
        return Arrow { path, predicate, x, y: y - 10.0 };
    }
    let (dx, dy) = (to.x - from.x, to.y - from.y);
    let length = dx.hypot(dy).max(1.0);
    let bend = 10.0 * (parallel as f64 + 1.0) * if parallel.is_multiple_of(2) { 1.0 } else { -1.0 };
    let middle = ((from.x + to.x) / 2.0 - dy / length * bend, (from.y + to.y) / 2.0 + dx / length * bend);
    let start = edge_of(from, middle);
    let end = edge_of(to, middle);
    Arrow {
        path: format!(
            "M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}",
            start.0, start.1, middle.0, middle.1, end.0, end.1
        ),
        predicate,
        // The middle of the curve.
        x: 0.25 * start.0 + 0.5 * middle.0 + 0.25 * end.0,
        y: 0.25 * start.1 + 0.5 * middle.1 + 0.25 * end.1 + 3.0,
    }
}

/// Where the line from a box' middle to `point` leaves the box.
fn edge_of(node: &Box<'_>, point: (f64, f64)) -> (f64, f64) {
    let (dx, dy) = (point.0 - node.x, point.1 - node.y);
    let x = (node.width / 2.0 + 1.0) / dx.abs().max(1e-9);
    let y = (HEIGHT / 2.0 + 1.0) / dy.abs().max(1e-9);
    let scale = x.min(y).min(1.0);
    (node.x + dx * scale, node.y + dy * scale)
}
