//! Scenes drawn with their boxes, parsed from the SVG.

use scenerank::data::object_box::{ImageSize, ObjectBox};
use scenerank::report::scene::{Drawing, Frame, Scene};
use scenerank::report::scene_drawing::draw;
use scraper::{ElementRef, Html, Selector};

/// Rectangle: left, top, right, bottom.
type Rectangle = [f64; 4];

struct Drawn {
    drawing: Drawing,
    page: Html,
}

fn drawn(
    size: (u16, u16),
    objects: &[(&str, Option<[u16; 4]>)],
    relationships: &[(usize, &str, usize)],
) -> Drawn {
    let names: Vec<String> = objects.iter().map(|(name, _)| name.to_string()).collect();
    let boxes: Vec<Option<ObjectBox>> = objects
        .iter()
        .map(|(_, found)| found.map(|[x, y, width, height]| ObjectBox { x, y, width, height }))
        .collect();
    let relationships: Vec<_> = relationships.iter().map(|&(s, p, o)| (s, p.to_string(), o)).collect();
    let frame = Frame { size: ImageSize { width: size.0, height: size.1 }, boxes: &boxes };
    let scene = Scene { objects: &names, relationships: &relationships, kinds: &[], frame: Some(frame) };
    let drawing = draw(scene).unwrap();
    let page = Html::parse_fragment(&format!("<svg>{}</svg>", drawing.elements));
    Drawn { drawing, page }
}

impl Drawn {
    fn all(&self, selector: &str) -> Vec<ElementRef<'_>> {
        self.page.select(&Selector::parse(selector).unwrap()).collect()
    }

    fn rectangle(&self, selector: &str) -> Rectangle {
        let found = self.all(selector);
        assert_eq!(found.len(), 1, "{selector} in {}", self.drawing.elements);
        rectangle(found[0])
    }
}

fn number(element: ElementRef<'_>, name: &str) -> f64 {
    element.value().attr(name).unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

fn rectangle(element: ElementRef<'_>) -> Rectangle {
    let [x, y, width, height] = ["x", "y", "width", "height"].map(|name| number(element, name));
    [x, y, x + width, y + height]
}

/// Whether `inner` is within `outer`, up to one decimal.
fn within(inner: Rectangle, outer: Rectangle) -> bool {
    inner[0] >= outer[0] - 0.2
        && inner[1] >= outer[1] - 0.2
        && inner[2] <= outer[2] + 0.2
        && inner[3] <= outer[3] + 0.2
}

/// First and last point of a path, `M x y Q x y x y`.
fn ends(path: &str) -> [Rectangle; 2] {
    let numbers: Vec<f64> = path
        .split(['M', 'Q', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap())
        .collect();
    assert_eq!(numbers.len(), 6, "{path}");
    [[numbers[0], numbers[1], numbers[0], numbers[1]], [numbers[4], numbers[5], numbers[4], numbers[5]]]
}

#[test]
fn boxes_keep_their_places_in_a_frame_of_the_images_shape() {
    let drawn = drawn(
        (600, 300),
        &[("dog", Some([60, 150, 120, 90])), ("sky", Some([0, 0, 600, 150])), ("leash", None)],
        &[],
    );
    let frame = drawn.rectangle("rect.frame");
    let (width, height) = (frame[2] - frame[0], frame[3] - frame[1]);
    assert!((width / height - 2.0).abs() < 0.01, "{frame:?}");
    let dog = drawn.rectangle("rect.box[data-object='0']");
    let want = [60.0, 150.0, 180.0, 240.0].map(|at| at * width / 600.0);
    for (side, want) in want.into_iter().enumerate() {
        assert!((dog[side] - frame[side % 2] - want).abs() < 0.2, "{dog:?}");
    }
    // The larger box is drawn first, behind the other.
    let order: Vec<&str> =
        drawn.all("rect.box").iter().map(|found| found.value().attr("data-object").unwrap()).collect();
    assert_eq!(order, ["1", "0"]);
    // Objects without a box are below the frame, and on the canvas.
    let leash = drawn.rectangle("rect.alone");
    assert!(leash[1] >= frame[3] && leash[3] <= drawn.drawing.height && leash[2] <= drawn.drawing.width);
    assert!(drawn.all("title").iter().any(|title| title.inner_html() == "leash, without a box"));
    // A scene without boxes is drawn as its graph.
    let graph =
        draw(Scene { objects: &["dog".into()], relationships: &[], kinds: &[], frame: None }).unwrap();
    assert!(!graph.elements.contains("frame") && graph.elements.contains("dog"));
}

/// Twenty overlapping boxes: every name is present and within the frame, and none covers another.
#[test]
fn names_are_all_there_and_apart() {
    let names: Vec<String> = (0..20).map(|index| format!("thing {index}")).collect();
    let objects: Vec<(&str, Option<[u16; 4]>)> = (0..20u16)
        .map(|index| (names[index as usize].as_str(), Some([200 + 5 * index, 100 + 3 * index, 60, 40])))
        .collect();
    for size in [(500, 400), (400, 600)] {
        let drawn = drawn(size, &objects, &[(0, "near", 1), (2, "on", 3)]);
        let texts: Vec<String> =
            drawn.all("text.name").iter().map(|text| text.text().next().unwrap().to_string()).collect();
        assert!(texts.len() == 20 && names.iter().all(|name| texts.contains(name)), "{texts:?}");
        let frame = drawn.rectangle("rect.frame");
        let grounds: Vec<Rectangle> = drawn.all("rect.ground").into_iter().map(rectangle).collect();
        for (place, ground) in grounds.iter().enumerate() {
            assert!(within(*ground, frame), "{ground:?} in {frame:?}");
            for other in &grounds[..place] {
                let apart = ground[0] >= other[2] - 0.2
                    || other[0] >= ground[2] - 0.2
                    || ground[1] >= other[3] - 0.2
                    || other[1] >= ground[3] - 0.2;
                assert!(apart, "{ground:?} over {other:?}");
            }
        }
        assert!(drawn.all("rect.box").into_iter().all(|found| within(rectangle(found), frame)));
    }
}

#[test]
fn arrows_lead_from_subject_to_object() {
    let objects = [
        ("man", Some([10, 20, 80, 180])),
        ("shirt", Some([30, 60, 40, 50])),
        ("car", Some([250, 120, 140, 70])),
        ("idea", None),
    ];
    let relationships = [
        (0, "wearing", 1),
        (0, "near", 2),
        (2, "near", 0),
        (0, "near", 2),
        (1, "in front of", 2),
        (0, "having", 3),
        (2, "touching", 2),
        (1, "on", 0),
    ];
    let drawn = drawn((400, 200), &objects, &relationships);
    let paths = drawn.all("path.arrow");
    assert_eq!(paths.len(), relationships.len());
    let place = |object: usize| match objects[object].1 {
        Some(_) => drawn.rectangle(&format!("rect.box[data-object='{object}']")),
        None => drawn.rectangle("rect.alone"),
    };
    let mut shapes = std::collections::HashSet::new();
    for (path, &(subject, predicate, object)) in paths.iter().zip(&relationships) {
        let shape = path.value().attr("d").unwrap();
        let [start, end] = ends(shape);
        assert!(within(start, place(subject)) && within(end, place(object)), "{predicate}: {shape}");
        assert_ne!(start, end, "{predicate}");
        assert!(shapes.insert(shape.to_string()), "{shape} twice");
        let title = path.text().collect::<String>();
        assert_eq!(title, format!("{} {predicate} {}", objects[subject].0, objects[object].0));
    }
    // Separate boxes are connected at their borders.
    let (man, car) = (place(0), place(2));
    let [start, end] = ends(paths[1].value().attr("d").unwrap());
    assert!((start[0] - man[2]).abs() < 0.2 && (end[0] - car[0]).abs() < 0.2, "{start:?} {end:?}");
    let shown: Vec<String> = drawn.all("text.predicate").iter().map(|text| text.inner_html()).collect();
    assert!(shown.contains(&"near".to_string()), "{shown:?}");
}

#[test]
fn names_are_escaped_and_odd_shapes_drawn() {
    let name = "<b>&\"'</b> and a name of many letters";
    let one = drawn((300, 300), &[(name, Some([0, 0, 9, 9])), ("b", None)], &[(0, "</svg><script>", 1)]);
    assert!(!one.drawing.elements.contains("<b>") && !one.drawing.elements.contains("<script>"));
    assert!(one.all("title").iter().any(|title| title.text().collect::<String>() == name));
    for size in [(1, 1), (32767, 1), (1, 32767), (3000, 2)] {
        let drawn =
            drawn(size, &[("a", Some([0, 0, 1, 1])), ("b", Some([0, 0, size.0, size.1]))], &[(0, "in", 1)]);
        assert!(drawn.drawing.width.is_finite() && drawn.drawing.width < 1000.0, "{size:?}");
        assert!(drawn.drawing.height < 1000.0 && !drawn.drawing.elements.contains("NaN"), "{size:?}");
    }
}
