//! Baselines, the projection and subsets, on data that is small enough to compute by hand.

use scenerank::data::contents::{DatasetContents, IMAGE, IN_IMAGE, ImageContents, TypeContents};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::data::subset::{choose, write_subset};
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::projection::principal_plane;
use scenerank::evaluation::{BagOfObjects, Embeddings, mean_name_vectors};
use tempfile::TempDir;

/// Objects by type: 0 dog, 1 man (no known word), 2 car, 3 image.
fn dataset(train: &[&[u32]], validation: &[&[u32]], test: &[&[u32]]) -> (TempDir, Dataset) {
    let mut id = 0;
    let images = [train, validation, test].map(|split| {
        let image = |objects: &&[u32]| {
            id += 1;
            ImageContents {
                image_id: id,
                coco_id: 1000 + id,
                captions: vec![format!("caption {id}")],
                caption_vector: vec![id as f32 / 1000.0, 0.5],
                graph: SceneGraphBuf::augmented(objects, &[(0, 0, 1)], 3, 1),
                ..Default::default()
            }
        };
        split.iter().map(image).collect()
    });
    let mut contents = DatasetContents {
        word_width: 2,
        objects: vec![
            TypeContents::new("dog", Some(vec![3.0, 0.0])),
            TypeContents::new("man", None),
            TypeContents::new("car", Some(vec![0.0, 4.0])),
            TypeContents::new(IMAGE, Some(vec![100.0, 100.0])),
        ],
        predicates: vec![TypeContents::new("on", Some(vec![5.0, 6.0])), TypeContents::new(IN_IMAGE, None)],
        images,
        metadata: serde_json::json!({}),
    };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("small.data");
    contents.write(&path).unwrap();
    (folder, Dataset::open(path).unwrap())
}

fn assert_rows(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    // A few roundings of numbers up to 1.
    let close = got.iter().zip(want).all(|(&got, want)| (f64::from(got) - want).abs() < 1e-6);
    assert!(close, "{got:?} where {want:?} is expected");
}

#[test]
fn the_bag_of_objects_weighs_types_by_how_rare_they_are_in_training() {
    let (_folder, data) = dataset(&[&[0, 0], &[0, 1], &[0, 1, 1]], &[], &[&[0, 0, 1], &[2, 2]]);
    let bag = BagOfObjects::fit(&data, data.split(Split::Train));
    // Three images: the dog is in all, the man in two, the car in none.
    let idf = [1.0, 1.0 + (4.0f64 / 3.0).ln(), 1.0 + 4.0f64.ln(), 0.0];
    for (object, idf) in idf.iter().enumerate() {
        assert!((f64::from(bag.idf(object as u32)) - idf).abs() < 1e-6, "{object}");
    }
    let graphs: Vec<_> = data.split(Split::Test).map(|image| data.graph(image)).collect();
    let norm = (4.0 + idf[1] * idf[1]).sqrt();
    assert_eq!(bag.width(), 4);
    assert_rows(&bag.embed(&graphs), &[2.0 / norm, idf[1] / norm, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert_rows(&bag.embed(&[SceneGraphBuf::augmented(&[], &[], 3, 1).view()]), &[0.0; 4]);
}

#[test]
fn name_vectors_are_the_mean_of_what_is_known() {
    let (_folder, data) = dataset(&[&[0, 0, 2, 1], &[1, 1], &[0, 1]], &[], &[]);
    let graphs: Vec<_> = (0..3).map(|image| data.graph(image)).collect();
    // Dog, dog and car: (6, 4), up to a factor.
    let norm = 52.0f64.sqrt();
    assert_rows(&mean_name_vectors(&data, &graphs), &[6.0 / norm, 4.0 / norm, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn the_principal_plane_has_the_largest_spread() {
    // Spread along (3, 4, 0) / 5 by 5 t and along (0, 0, 1) by u, where t and u have mean 0 and are
    // uncorrelated.
    let values: Vec<f32> = [(-2.0, 1.0), (-1.0, -2.0), (1.0, -2.0), (2.0, 1.0), (0.0, 2.0)]
        .iter()
        .flat_map(|&(t, u): &(f32, f32)| [7.0 + 3.0 * t, 4.0 * t, u - 1.0])
        .collect();
    let plane = principal_plane(Embeddings::new(&values, 3).unwrap()).unwrap();
    let (along, across): (Vec<f64>, Vec<f64>) = plane.points.iter().copied().unzip();
    let assert_close = |got: &[f64], want: &[f64]| {
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?} {want:?}");
    };
    assert_close(&along, &[-10.0, -5.0, 5.0, 10.0, 0.0]);
    assert_close(&across, &[1.0, -2.0, -2.0, 1.0, 2.0]);
    // The sums of squares are 250 and 14.
    assert_close(&[plane.explained.0, plane.explained.1], &[250.0 / 264.0, 14.0 / 264.0]);
    assert!(principal_plane(Embeddings::new(&[1.0, 2.0], 2).unwrap()).is_none());
    assert!(principal_plane(Embeddings::new(&[1.0, 2.0, 1.0, 2.0], 2).unwrap()).is_none());
}

#[test]
fn a_subset_keeps_splits_shares_and_contents() {
    let objects: Vec<&[u32]> =
        (0..50).map(|i| if i % 2 == 0 { &[0, 1][..] } else { &[2, 0, 1][..] }).collect();
    let (folder, data) = dataset(&objects[..35], &objects[35..45], &objects[45..]);
    let images = choose(&data, 21).unwrap();
    let path = folder.path().join("subset.data");
    write_subset(&data, &images, &path).unwrap();
    let subset = Dataset::open(&path).unwrap();
    // 21 x 10 / 50 = 4.2 and 21 x 5 / 50 = 2.1; train gets the rest.
    assert_eq!(Split::PARTS.map(|split| subset.split(split).len()), [15, 4, 2]);
    for (image, &whole) in images.iter().enumerate() {
        assert_eq!(subset.image_id(image), data.image_id(whole));
        assert_eq!(subset.coco_id(image), data.coco_id(whole));
        assert_eq!(subset.graph(image), data.graph(whole));
        assert_eq!(subset.captions(image).collect::<Vec<_>>(), data.captions(whole).collect::<Vec<_>>());
        let split_of = |data: &Dataset, image| Split::PARTS.map(|split| data.split(split).contains(&image));
        assert_eq!(split_of(&subset, image), split_of(&data, whole));
    }
    assert_eq!(subset.caption_vectors().len(), 2 * images.len());
    assert_eq!((subset.object_vectors(), subset.object_known(1)), (data.object_vectors(), false));
    assert_eq!(choose(&data, 21).unwrap(), images);
    let larger = choose(&data, 50).unwrap();
    assert_eq!(larger, (0..50).collect::<Vec<_>>());
    assert!(choose(&data, 51).unwrap_err().to_string().contains("the data has 50 images"));
}
