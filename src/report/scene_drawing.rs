//! Drawing of a scene that is small enough for a gallery: its boxes if it has any ([`scene_boxes`]),
//! otherwise the nodes and arrows of its graph.
//!
//! Each connected component is laid out in layers. The object with the most relationships is on top, its
//! neighbours are below it, their neighbours below these. Most arrows then lead from one row to the next,
//! with their labels between the rows. A row that is too wide is wrapped. Components are placed side by side
//! while there is room. Objects without a relationship are listed in rows below.

use std::collections::VecDeque;
use std::io;

use askama::Template;

use super::scene::{Drawing, Scene};
use super::scene_boxes;

/// Largest and smallest width of the canvas in pixels; its height follows from the scene.
const WIDTH: f64 = 380.0;
const LEAST_WIDTH: f64 = 250.0;
const MARGIN: f64 = 6.0;
/// Height of a node's box.
const HEIGHT: f64 = 20.0;
/// Distance between layers: room for a box and an arrow with its label.
const LAYER: f64 = 54.0;
/// Average width of a letter at the font size in use, and padding of a box.
const LETTER: f64 = 6.3;
const LABEL_LETTER: f64 = 5.4;
const PADDING: f64 = 14.0;
/// Distance between boxes.
const GAP: f64 = 6.0;
/// Distance between connected components.
const PART_GAP: f64 = 16.0;
/// Longest name in letters. A longer one is cut with an ellipsis; its title has the whole name.
const LONGEST: usize = 22;
/// Position of a label on an arrow between two layers, from the upper to the lower end. Arrows diverge on
/// their way down, so labels have most room there.
const LABEL_PLACE: f64 = 0.62;

#[derive(Template)]
#[template(path = "scene.svg", escape = "html")]
struct Elements<'a> {
    boxes: Vec<Box<'a>>,
    arrows: Vec<Arrow<'a>>,
}

/// A node; x and y are its centre.
struct Box<'a> {
    name: &'a str,
    text: String,
    class: String,
    x: f64,
    y: f64,
    width: f64,
    connected: bool,
}

/// An arrow between the edges of two boxes, bent so that arrows between the same boxes do not hide each
/// other.
struct Arrow<'a> {
    path: String,
    predicate: &'a str,
    x: f64,
    y: f64,
}

impl<'a> Box<'a> {
    fn new(name: &'a str, class: String) -> Self {
        let text = match name.chars().count() > LONGEST {
            true => name.chars().take(LONGEST - 1).chain(['…']).collect(),
            false => name.to_owned(),
        };
        let width = text.chars().count() as f64 * LETTER + PADDING;
        Box { name, text, class, x: 0.0, y: 0.0, width, connected: false }
    }

    fn left(&self) -> f64 {
        self.x - self.width / 2.0
    }

    fn top(&self) -> f64 {
        self.y - HEIGHT / 2.0
    }
}

/// Draws the scene.
pub fn draw(scene: Scene<'_>) -> io::Result<Drawing> {
    match scene.frame.filter(|frame| frame.boxes.iter().any(Option::is_some)) {
        Some(frame) => scene_boxes::draw(scene, frame),
        None => draw_graph(scene),
    }
}

fn draw_graph(scene: Scene<'_>) -> io::Result<Drawing> {
    let mut boxes: Vec<Box<'_>> =
        scene.objects.iter().enumerate().map(|(index, name)| Box::new(name, scene.class(index))).collect();
    for &(subject, _, object) in scene.relationships {
        boxes[subject].connected = true;
        boxes[object].connected = true;
    }
    let bottom = place_parts(&mut boxes, scene.relationships);
    let height = rows_below(&mut boxes, bottom);
    let right = boxes.iter().map(|node| node.left() + node.width).fold(0.0, f64::max) + MARGIN;
    let width = right.clamp(LEAST_WIDTH, WIDTH);
    // A small scene is centred.
    boxes.iter_mut().for_each(|node| node.x += (width - right).max(0.0) / 2.0);
    let arrows = scene
        .relationships
        .iter()
        .enumerate()
        .map(|(index, (subject, predicate, object))| {
            let parallel = scene.relationships[..index]
                .iter()
                .filter(|(s, _, o)| (s, o) == (subject, object) || (s, o) == (object, subject))
                .count();
            match subject == object {
                true => loop_arrow(&boxes[*subject], predicate, parallel),
                false => arrow(&boxes[*subject], &boxes[*object], predicate, parallel),
            }
        })
        .collect();
    let elements = Elements { boxes, arrows }.render().map_err(io::Error::other)?;
    Ok(Drawing { width, height, elements })
}

/// A connected component: its rows of boxes from the top, with the width needed by each box.
struct Part {
    rows: Vec<Vec<(usize, f64)>>,
}

impl Part {
    fn width(&self) -> f64 {
        self.rows.iter().map(|row| row_width(row)).fold(0.0, f64::max)
    }

    fn height(&self) -> f64 {
        (self.rows.len() as f64 - 1.0) * LAYER + HEIGHT
    }
}

fn row_width(row: &[(usize, f64)]) -> f64 {
    row.iter().map(|(_, slot)| slot).sum()
}

/// Places the boxes of the components; returns their end.
fn place_parts(boxes: &mut [Box<'_>], relationships: &[(usize, String, usize)]) -> f64 {
    let mut parts = parts(boxes, relationships);
    // Tall components come first, so that components side by side have similar heights.
    parts.sort_by_key(|part| std::cmp::Reverse(part.rows.len()));
    // Leaves room for the label of a loop above the boxes.
    let (mut x, mut top, mut bottom) = (MARGIN, 2.0 * MARGIN, MARGIN);
    for part in &parts {
        if x > MARGIN && x + part.width() > WIDTH - MARGIN {
            (x, top) = (MARGIN, bottom + PART_GAP);
        }
        let middle = x + part.width() / 2.0;
        for (layer, row) in part.rows.iter().enumerate() {
            let mut left = middle - row_width(row) / 2.0;
            for &(index, slot) in row {
                boxes[index].x = left + slot / 2.0;
                boxes[index].y = top + HEIGHT / 2.0 + layer as f64 * LAYER;
                left += slot;
            }
        }
        bottom = bottom.max(top + part.height());
        x += part.width() + PART_GAP;
    }
    bottom
}

/// Connected components, each in layers by the distance from its object with the most relationships.
fn parts(boxes: &[Box<'_>], relationships: &[(usize, String, usize)]) -> Vec<Part> {
    let mut neighbours: Vec<Vec<usize>> = vec![Vec::new(); boxes.len()];
    for &(subject, _, object) in relationships {
        neighbours[subject].push(object);
        neighbours[object].push(subject);
    }
    // A box needs the width of its name, or the width at which the labels of its arrows clear those of its
    // neighbours.
    let slot = |index: usize| {
        let labels = relationships
            .iter()
            .filter(|(subject, _, object)| *subject == index || *object == index)
            .map(|(_, predicate, _)| predicate.chars().count() as f64 * LABEL_LETTER / LABEL_PLACE);
        (labels.fold(boxes[index].width, f64::max) + GAP).min(WIDTH - 2.0 * MARGIN)
    };
    let mut busiest: Vec<usize> = (0..boxes.len()).filter(|&index| boxes[index].connected).collect();
    busiest.sort_by_key(|&index| std::cmp::Reverse(neighbours[index].len()));
    let mut seen = vec![false; boxes.len()];
    let mut parts = Vec::new();
    for root in busiest {
        if seen[root] {
            continue;
        }
        seen[root] = true;
        let mut layers: Vec<Vec<(usize, f64)>> = Vec::new();
        let mut queue = VecDeque::from([(root, 0)]);
        while let Some((index, layer)) = queue.pop_front() {
            if layers.len() == layer {
                layers.push(Vec::new());
            }
            layers[layer].push((index, slot(index)));
            for &next in &neighbours[index] {
                if !seen[next] {
                    seen[next] = true;
                    queue.push_back((next, layer + 1));
                }
            }
        }
        parts.push(Part { rows: layers.into_iter().flat_map(wrap).collect() });
    }
    parts
}

/// Wraps a layer into as many rows as the width of the canvas requires.
fn wrap(layer: Vec<(usize, f64)>) -> Vec<Vec<(usize, f64)>> {
    let mut rows: Vec<Vec<(usize, f64)>> = vec![Vec::new()];
    for entry in layer {
        let row = rows.last_mut().expect("one row at least");
        if !row.is_empty() && row_width(row) + entry.1 > WIDTH - 2.0 * MARGIN {
            rows.push(vec![entry]);
        } else {
            row.push(entry);
        }
    }
    rows
}

/// Places the other boxes in rows, starting at `top`; returns the height of the canvas.
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

fn loop_arrow<'a>(node: &Box<'_>, predicate: &'a str, parallel: usize) -> Arrow<'a> {
    let (x, y) = (node.x + 12.0 * parallel as f64, node.top());
    Arrow { path: format!("M{:.1} {y:.1}c-12 -16 20 -16 8 0", x - 4.0), predicate, x, y: y - 3.0 }
}

fn arrow<'a>(from: &Box<'_>, to: &Box<'_>, predicate: &'a str, parallel: usize) -> Arrow<'a> {
    let (dx, dy) = (to.x - from.x, to.y - from.y);
    let length = dx.hypot(dy).max(1.0);
    // Arrows of one pair bend to alternating sides. An arrow along a row bends around the boxes between its
    // ends.
    let along = if dy == 0.0 { LAYER * 0.55 } else { 0.0 };
    let side = if parallel.is_multiple_of(2) { 1.0 } else { -1.0 };
    let bend = side * (18.0 * parallel as f64 + along);
    let middle =
        ((from.x + to.x) / 2.0 - dy / length * bend, (from.y + to.y) / 2.0 + dx.abs() / length * bend);
    let (start, end) = (edge_of(from, middle), edge_of(to, middle));
    // Point on the quadratic curve.
    let place = match dy {
        down if down > 0.0 => LABEL_PLACE,
        up if up < 0.0 => 1.0 - LABEL_PLACE,
        _ => 0.5,
    };
    let at = |start: f64, middle: f64, end: f64| {
        (1.0 - place).powi(2) * start + 2.0 * place * (1.0 - place) * middle + place.powi(2) * end
    };
    Arrow {
        path: format!(
            "M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}",
            start.0, start.1, middle.0, middle.1, end.0, end.1
        ),
        predicate,
        x: at(start.0, middle.0, end.0),
        y: at(start.1, middle.1, end.1) + 3.0,
    }
}

/// Point at which the line from the centre of a box to `point` crosses its border.
fn edge_of(node: &Box<'_>, point: (f64, f64)) -> (f64, f64) {
    let (dx, dy) = (point.0 - node.x, point.1 - node.y);
    let x = (node.width / 2.0 + 1.0) / dx.abs().max(1e-9);
    let y = (HEIGHT / 2.0 + 1.0) / dy.abs().max(1e-9);
    let scale = x.min(y).min(1.0);
    (node.x + dx * scale, node.y + dy * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes_of(objects: &[&str], relationships: &[(usize, &str, usize)]) -> (Drawing, Vec<(f64, f64, f64)>) {
        let objects: Vec<String> = objects.iter().map(|name| name.to_string()).collect();
        let relationships: Vec<_> = relationships.iter().map(|&(s, p, o)| (s, p.to_string(), o)).collect();
        let drawing =
            draw(Scene { objects: &objects, relationships: &relationships, kinds: &[], frame: None })
                .unwrap();
        let attribute = |line: &str, name: &str| -> f64 {
            let from = line.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
            line[from..].split('"').next().unwrap().parse().unwrap()
        };
        let rects = drawing.elements.split('<').filter(|element| element.starts_with("rect"));
        let boxes = rects.map(|r| (attribute(r, "x"), attribute(r, "y"), attribute(r, "width"))).collect();
        (drawing, boxes)
    }

    #[test]
    fn boxes_lie_on_the_canvas_and_apart() {
        let many: Vec<String> = (0..40).map(|index| format!("thing number {index}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let star: Vec<(usize, &str, usize)> = (1..30).map(|index| (0, "in front of", index)).collect();
        let chain: Vec<(usize, &str, usize)> = (1..30).map(|index| (index, "on", index - 1)).collect();
        let ring = [(0, "a", 1), (1, "b", 2), (2, "c", 0), (0, "d", 1), (3, "e", 3), (4, "f", 5)];
        for relationships in [&star[..], &chain, &ring, &[]] {
            let (drawing, boxes) = boxes_of(&many, relationships);
            assert_eq!(boxes.len(), many.len());
            assert_eq!(drawing.elements.matches("<path").count(), relationships.len());
            for (place, &(x, y, width)) in boxes.iter().enumerate() {
                assert!(x >= 0.0 && x + width <= drawing.width, "{x} {width}");
                assert!(y >= 0.0 && y + HEIGHT <= drawing.height, "{y} of {}", drawing.height);
                for &(other_x, other_y, other_width) in &boxes[..place] {
                    let apart_x = x >= other_x + other_width || other_x >= x + width;
                    assert!(apart_x || (y - other_y).abs() >= HEIGHT, "{place}: {x} {y}");
                }
            }
        }
    }

    #[test]
    fn names_are_escaped_and_long_ones_cut() {
        let (drawing, _) =
            boxes_of(&["a <b> & \"c\"", "a name of more than twenty letters"], &[(0, "<&>", 1)]);
        assert!(
            !drawing.elements.contains("<b>") && !drawing.elements.contains("<&>"),
            "{}",
            drawing.elements
        );
        assert!(drawing.elements.contains("<title>a name of more than twenty letters</title>"));
        assert_eq!(
            draw(Scene { objects: &[], relationships: &[], kinds: &[], frame: None })
                .unwrap()
                .elements
                .trim(),
            ""
        );
    }
}
