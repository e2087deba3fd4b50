//! The synthetic collection: reproducible bytes, correct joins, and the required statistics.
//!
//! The statistics are computed from the files alone, with a separate filter and Kendall tau;
//! `cargo test --test data synth:: -- --nocapture` prints them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use scenerank::synth::captions::captions;
use scenerank::synth::image::{Depiction, annotated_graph, coco_id, image_id};
use scenerank::synth::{SynthConfig, SynthFiles, write_collection};
use serde::Deserialize;

const IMAGES: u64 = 3000;
const SEED: u64 = 1;

#[derive(Deserialize)]
struct Graph {
    image_id: u64,
    objects: Vec<Object>,
    relationships: Vec<Relationship>,
}

#[derive(Deserialize)]
struct Object {
    object_id: u64,
    names: Vec<String>,
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

#[derive(Deserialize)]
struct Relationship {
    relationship_id: u64,
    predicate: String,
    subject_id: u64,
    object_id: u64,
}

#[derive(Deserialize)]
struct ImageData {
    image_id: u64,
    coco_id: Option<u64>,
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Captions {
    images: Vec<CocoImage>,
    annotations: Vec<Caption>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: u64,
}

#[derive(Deserialize)]
struct Caption {
    id: u64,
    image_id: u64,
    caption: String,
}

struct Collection {
    graphs: Vec<Graph>,
    image_data: Vec<ImageData>,
    captions: Captions,
    glove: HashMap<String, Vec<f32>>,
}

fn config(images: u64, seed: u64) -> SynthConfig {
    SynthConfig { images, seed, ..SynthConfig::default() }
}

fn written_bytes(config: &SynthConfig, threads: usize) -> [Vec<u8>; 4] {
    let folder = tempfile::tempdir().unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let files: SynthFiles = pool.install(|| write_collection(folder.path(), config)).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "a temporary file stayed");
    [files.scene_graphs, files.image_data, files.captions, files.glove].map(|path| fs::read(path).unwrap())
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

static COLLECTION: LazyLock<Collection> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let files = write_collection(folder.path(), &config(IMAGES, SEED)).unwrap();
    let mut glove = HashMap::new();
    for line in fs::read_to_string(&files.glove).unwrap().lines() {
        let (word, vector) = line.split_once(' ').unwrap();
        let vector: Vec<f32> = vector.split(' ').map(|value| value.parse().unwrap()).collect();
        assert_eq!(vector.len(), SynthConfig::default().word_width, "{word}");
        assert!(glove.insert(word.to_string(), vector).is_none(), "{word} occurs twice");
    }
    Collection {
        graphs: parse(&files.scene_graphs),
        image_data: parse(&files.image_data),
        captions: parse(&files.captions),
        glove,
    }
});

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_string).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn normalised_mean<'a>(vectors: impl Iterator<Item = &'a Vec<f32>>) -> Vec<f32> {
    let mut sum = vec![0.0; SynthConfig::default().word_width];
    vectors.for_each(|vector| sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value));
    let norm = dot(&sum, &sum).sqrt();
    sum.into_iter().map(|value| value / norm).collect()
}

/// Mean of the captions' vectors.
fn image_vector(captions: &[&str]) -> Vec<f32> {
    let mut sum = vec![0.0; SynthConfig::default().word_width];
    for caption in captions {
        let words = words(caption);
        let vector = normalised_mean(words.iter().map(|word| &COLLECTION.glove[word]));
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value / captions.len() as f32);
    }
    sum
}

/// Mean of the captions' vectors by COCO id.
static CAPTION_VECTORS: LazyLock<HashMap<u64, Vec<f32>>> = LazyLock::new(|| {
    let mut of_image: HashMap<u64, Vec<&str>> = HashMap::new();
    for caption in &COLLECTION.captions.annotations {
        of_image.entry(caption.image_id).or_default().push(&caption.caption);
    }
    of_image.into_iter().map(|(image, captions)| (image, image_vector(&captions))).collect()
});

/// Caption vector of image `index`, if it has captions.
fn caption_vector(index: u64) -> Option<&'static Vec<f32>> {
    coco_id(SEED, index).map(|id| &CAPTION_VECTORS[&id])
}

fn sorted(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    values
}

fn quantile(sorted: &[f32], p: f64) -> f32 {
    sorted[((sorted.len() - 1) as f64 * p).round() as usize]
}

fn mean(values: &[f32]) -> f32 {
    (values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64) as f32
}

/// Kendall tau-b from its definition.
fn kendall_tau(x: &[f32], y: &[f32]) -> f32 {
    let sign = |a: f32, b: f32| i64::from(a > b) - i64::from(a < b);
    let (mut agreement, mut untied_x, mut untied_y) = (0, 0, 0);
    for i in 0..x.len() {
        for j in 0..i {
            let (a, b) = (sign(x[i], x[j]), sign(y[i], y[j]));
            agreement += a * b;
            untied_x += a * a;
            untied_y += b * b;
        }
    }
    // A constant row agrees with nothing.
    agreement as f32 / ((untied_x as f32).sqrt() * (untied_y as f32).sqrt()).max(1.0)
}

#[test]
fn bytes_depend_on_the_seed_alone() {
    let small = config(1500, SEED);
    let one_thread = written_bytes(&small, 1);
    assert!(one_thread == written_bytes(&small, 2), "the number of threads changes the bytes");
    let other = written_bytes(&config(1500, SEED + 1), 2);
    for document in 0..3 {
        assert!(one_thread[document] != other[document], "document {document} ignores the seed");
    }
    assert!(one_thread[3] == other[3], "the words' meanings depend on the seed");
}

#[test]
fn more_images_begin_with_the_same_ones() {
    let [graphs, image_data, ..] = written_bytes(&config(1500, SEED), 2);
    let [longer_graphs, longer_image_data, ..] = written_bytes(&config(1700, SEED), 2);
    let body = |document: &[u8]| document.len() - "]\n".len();
    assert!(longer_graphs.starts_with(&graphs[..body(&graphs)]));
    assert!(longer_image_data.starts_with(&image_data[..body(&image_data)]));
}

#[test]
fn one_image_can_be_made_alone() {
    let index = 1234;
    let alone = annotated_graph(SEED, index, &Depiction::new(SEED, index));
    let alone: Graph = serde_json::from_value(serde_json::to_value(alone).unwrap()).unwrap();
    let written = &COLLECTION.graphs[index as usize];
    assert_eq!(alone.image_id, written.image_id);
    assert_eq!(alone.relationships.len(), written.relationships.len());
    assert!(alone.objects.iter().zip(&written.objects).all(|(a, b)| a.names == b.names));
}

#[test]
fn compressed_files_hold_the_same_text() {
    let plain = written_bytes(&config(50, SEED), 1);
    let compressed = written_bytes(&SynthConfig { gzip: true, ..config(50, SEED) }, 1);
    for (plain, compressed) in plain.iter().zip(&compressed) {
        let mut text = Vec::new();
        std::io::copy(&mut flate2::read::GzDecoder::new(compressed.as_slice()), &mut text).unwrap();
        assert!(*plain == text);
    }
}

#[test]
fn existing_files_stay_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let captions = folder.path().join("captions.json");
    fs::write(&captions, "precious").unwrap();
    let error = write_collection(folder.path(), &config(5, SEED)).unwrap_err().to_string();
    assert!(error.contains("captions.json") && error.contains("--force"), "{error}");
    assert_eq!(fs::read_to_string(&captions).unwrap(), "precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    write_collection(folder.path(), &SynthConfig { force: true, ..config(5, SEED) }).unwrap();
    assert_ne!(fs::read_to_string(&captions).unwrap(), "precious");
}

#[test]
fn impossible_sizes_and_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (wrong, option) in [
        (config(0, SEED), "--images"),
        (config(u64::MAX, SEED), "--images"),
        (SynthConfig { word_width: 0, ..config(5, SEED) }, "--word-width"),
        (SynthConfig { word_width: usize::MAX, ..config(5, SEED) }, "--word-width"),
    ] {
        let error = write_collection(folder.path(), &wrong).unwrap_err().to_string();
        assert!(error.starts_with(option), "{error}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write_collection(&file, &config(5, SEED)).unwrap_err().to_string();
    assert!(error.contains("file: cannot create"), "{error}");
}

#[test]
fn joins_hold() {
    let Collection { graphs, image_data, captions, .. } = &*COLLECTION;
    assert_eq!((graphs.len(), image_data.len()), (IMAGES as usize, IMAGES as usize));
    let mut object_ids = HashSet::new();
    let mut relationship_ids = HashSet::new();
    for (graph, image) in graphs.iter().zip(image_data) {
        assert_eq!(graph.image_id, image.image_id);
        let ends: HashSet<u64> = graph.objects.iter().map(|object| object.object_id).collect();
        for object in &graph.objects {
            assert!(object_ids.insert(object.object_id));
            assert!(!object.names.is_empty());
            assert!(object.w > 0 && object.x + object.w <= image.width);
            assert!(object.h > 0 && object.y + object.h <= image.height);
        }
        for relationship in &graph.relationships {
            assert!(relationship_ids.insert(relationship.relationship_id));
            assert!(ends.contains(&relationship.subject_id) && ends.contains(&relationship.object_id));
        }
    }
    let mut caption_count: HashMap<u64, usize> = captions.images.iter().map(|image| (image.id, 0)).collect();
    assert_eq!(caption_count.len(), captions.images.len(), "an image is listed twice");
    let ids: HashSet<u64> = captions.annotations.iter().map(|caption| caption.id).collect();
    assert_eq!(ids.len(), captions.annotations.len(), "a caption id occurs twice");
    for caption in &captions.annotations {
        *caption_count.get_mut(&caption.image_id).expect("a caption of an image that is listed") += 1;
    }
    assert!(caption_count.values().all(|&count| count == 5));
    let coco_ids: Vec<u64> = image_data.iter().filter_map(|image| image.coco_id).collect();
    assert!(coco_ids.iter().all(|id| caption_count.contains_key(id)));
    let without = image_data.len() - coco_ids.len();
    let shared = coco_ids.len() - coco_ids.iter().collect::<HashSet<_>>().len();
    println!("images without a COCO id {without}, sharing one {shared}");
    assert!((10..=60).contains(&without) && (5..=30).contains(&shared));
}

#[test]
fn every_word_has_a_vector() {
    let Collection { graphs, captions, glove, .. } = &*COLLECTION;
    let names = graphs.iter().flat_map(|graph| graph.objects.iter().flat_map(|object| &object.names));
    let predicates = graphs.iter().flat_map(|graph| graph.relationships.iter().map(|r| &r.predicate));
    let captions = captions.annotations.iter().map(|caption| &caption.caption);
    for text in names.chain(predicates).chain(captions) {
        for word in words(text) {
            assert!(glove.contains_key(&word), "{word:?} of {text:?}");
        }
    }
}

/// Number of occurrences of each type, in lower case.
fn type_counts<'a>(names: impl Iterator<Item = &'a String>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for name in names {
        *counts.entry(name.to_lowercase()).or_default() += 1;
    }
    counts
}

#[test]
fn graphs_are_like_the_papers() {
    let graphs = &COLLECTION.graphs;
    let mut objects = type_counts(graphs.iter().flat_map(|graph| graph.objects.iter().map(|o| &o.names[0])));
    let mut predicates =
        type_counts(graphs.iter().flat_map(|graph| graph.relationships.iter().map(|r| &r.predicate)));
    let raw = (objects.len(), predicates.len());
    objects.retain(|_, count| *count >= 25);
    predicates.retain(|_, count| *count >= 25);
    let (mut object_counts, mut relationship_counts) = (Vec::new(), Vec::new());
    let mut isolated = 0;
    for graph in graphs {
        let kept =
            graph.objects.iter().filter(|object| objects.contains_key(&object.names[0].to_lowercase()));
        let kept: HashSet<u64> = kept.map(|object| object.object_id).collect();
        let relationships = graph.relationships.iter().filter(|r| {
            let ends_kept = kept.contains(&r.subject_id) && kept.contains(&r.object_id);
            ends_kept && predicates.contains_key(&r.predicate.to_lowercase())
        });
        let relationships: HashSet<_> =
            relationships.map(|r| (r.subject_id, r.predicate.to_lowercase(), r.object_id)).collect();
        if (3..=40).contains(&kept.len()) && !relationships.is_empty() {
            object_counts.push(kept.len() as f32);
            relationship_counts.push(relationships.len() as f32);
            let touched: HashSet<u64> = relationships.iter().flat_map(|r| [r.0, r.2]).collect();
            isolated += kept.len() - touched.len();
        }
    }
    let relationship_counts = sorted(relationship_counts);
    let (object_mean, relationship_mean) = (mean(&object_counts), mean(&relationship_counts));
    let quartiles = [0.25, 0.5, 0.75].map(|p| quantile(&relationship_counts, p));
    let isolated = isolated as f32 / object_counts.iter().sum::<f32>();
    println!("types {raw:?}, that occur 25 times ({}, {})", objects.len(), predicates.len());
    println!("images left {}, objects mean {object_mean:.1}, isolated {isolated:.2}", object_counts.len());
    println!("relationships mean {relationship_mean:.1}, quartiles {quartiles:?}");
    assert!(objects.len() >= 300 && predicates.len() >= 60);
    assert!((0.9..0.995).contains(&(object_counts.len() as f64 / IMAGES as f64)));
    assert!((19.5..22.5).contains(&object_mean));
    assert!((13.5..16.5).contains(&relationship_mean));
    assert!((11.0..=13.0).contains(&quartiles[1]));
    assert!((18.0..=21.0).contains(&quartiles[2]));
    assert!((0.05..0.5).contains(&isolated));
}

#[test]
fn caption_similarities_are_like_the_papers() {
    let vectors: Vec<&Vec<f32>> = (0..IMAGES).filter_map(caption_vector).collect();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let (mut all, mut differences, mut closest, mut deviations) = (vec![], vec![], vec![], vec![]);
    for anchor in (0..vectors.len()).step_by(50) {
        let others = (0..vectors.len()).filter(|&other| vectors[other] != vectors[anchor]);
        let row: Vec<f32> = others.map(|other| dot(vectors[anchor], vectors[other])).collect();
        let mut draw = || row[rng.random_range(0..row.len())];
        differences.extend((0..5000).map(|_| (draw() - draw()).abs()));
        let row_mean = mean(&row);
        deviations.push(mean(&row.iter().map(|s| (s - row_mean).powi(2)).collect::<Vec<_>>()).sqrt());
        closest.push(row.iter().copied().fold(0.0, f32::max));
        all.extend(row);
    }
    let (all, differences, closest) = (sorted(all), sorted(differences), sorted(closest));
    let quantiles = [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0].map(|p| quantile(&all, p));
    println!("similarity quantiles {quantiles:.3?}, deviation within a row {:.3}", mean(&deviations));
    println!("|difference| quantiles {:.3?}", [0.5, 0.9, 0.99].map(|p| quantile(&differences, p)));
    println!("closest image {:.3?}", [0.1, 0.5, 0.9].map(|p| quantile(&closest, p)));
    assert!((0.58..0.68).contains(&quantile(&all, 0.1)));
    assert!((0.68..0.75).contains(&quantile(&all, 0.5)));
    assert!((0.75..0.83).contains(&quantile(&all, 0.9)));
    assert!((0.14..0.19).contains(&quantile(&differences, 0.99)));
    assert!(quantile(&closest, 0.5) > 0.85);
}

#[test]
fn activities_count_beyond_scenes() {
    let images: Vec<(Depiction, &Vec<f32>)> = (0..IMAGES)
        .filter_map(|index| caption_vector(index).map(|vector| (Depiction::new(SEED, index), vector)))
        .collect();
    let mut shared = [const { Vec::new() }; 4];
    for (i, (a, x)) in images.iter().enumerate() {
        for (b, y) in images[..i].iter().filter(|(_, y)| *x != *y) {
            let same_superclass = a.scene().superclass == b.scene().superclass;
            let group = if a.scene == b.scene {
                usize::from(a.activity.is_none() || a.activity != b.activity)
            } else {
                2 + usize::from(!same_superclass)
            };
            shared[group].push(dot(x, y));
        }
    }
    let means = shared.map(|similarities| mean(&similarities));
    println!("mean similarity of images that share activity, scene, superclass, nothing: {means:.3?}");
    assert!(means.windows(2).all(|pair| pair[0] > pair[1] + 0.01), "{means:?}");
}

fn object_terms(graph: &Graph) -> Vec<String> {
    graph.objects.iter().map(|object| object.names[0].to_lowercase()).collect()
}

fn predicate_terms(graph: &Graph) -> Vec<String> {
    graph.relationships.iter().map(|relationship| relationship.predicate.to_lowercase()).collect()
}

#[test]
fn graphs_tell_of_captions_but_not_all() {
    let graphs: Vec<&Graph> = COLLECTION.graphs[..600].iter().collect();
    let objects = row_wise_tau(&graphs, &[(1.0, &object_terms)]);
    let predicates = row_wise_tau(&graphs, &[(1.0, &predicate_terms)]);
    println!("Kendall tau of tf-idf: objects {objects:.3}, predicates {predicates:.3}");
    assert!((0.15..0.4).contains(&objects));
    assert!((0.03..0.4).contains(&predicates));
}

/// Upper limit of the predictability: agreement of the captions with new captions of the same image.
#[test]
fn captions_agree_with_other_captions_of_the_same_image() {
    let images: Vec<u64> = (0..600).filter(|&index| caption_vector(index).is_some()).collect();
    let anew = |&index: &u64| {
        let captions = captions(SEED + 1, index, &Depiction::new(SEED, index));
        image_vector(&captions.each_ref().map(String::as_str))
    };
    let anew: Vec<Vec<f32>> = images.iter().map(anew).collect();
    let written: Vec<&Vec<f32>> = images.iter().filter_map(|&index| caption_vector(index)).collect();
    let row = |anchor: usize| {
        let others = (0..images.len()).filter(|&other| written[other] != written[anchor]);
        let pair = |other: usize| (dot(&anew[anchor], &anew[other]), dot(written[anchor], written[other]));
        let (x, y): (Vec<f32>, Vec<f32>) = others.map(pair).unzip();
        kendall_tau(&x, &y)
    };
    let ceiling = mean(&(0..images.len()).step_by(6).map(row).collect::<Vec<_>>());
    println!("Kendall tau of other captions of the same images {ceiling:.3}");
    assert!((0.5..0.9).contains(&ceiling));
}

#[test]
fn within_a_scene_predicates_tell_what_objects_do_not() {
    let mut of_scene: HashMap<usize, Vec<&Graph>> = HashMap::new();
    for graph in &COLLECTION.graphs {
        of_scene.entry(Depiction::new(SEED, graph.image_id - image_id(0)).scene).or_default().push(graph);
    }
    let taus = |views: &[View]| {
        mean(&of_scene.values().map(|graphs| row_wise_tau(graphs, views)).collect::<Vec<_>>())
    };
    let objects = taus(&[(1.0, &object_terms)]);
    let predicates = taus(&[(1.0, &predicate_terms)]);
    let both = taus(&[(1.0, &object_terms), (1.0, &predicate_terms)]);
    println!(
        "Kendall tau of tf-idf in a scene: objects {objects:.3}, predicates {predicates:.3}, both {both:.3}"
    );
    assert!(predicates > objects + 0.05 && both > objects + 0.05);
}

/// Weight of a view of the graphs, and its terms.
type View<'a> = (f32, &'a dyn Fn(&Graph) -> Vec<String>);

/// L2-normalised tf-idf vectors of the terms in each graph.
fn tf_idf(documents: &[Vec<String>]) -> Vec<HashMap<&str, f32>> {
    let mut document_count: HashMap<&str, f32> = HashMap::new();
    for document in documents {
        for term in document.iter().map(String::as_str).collect::<HashSet<_>>() {
            *document_count.entry(term).or_default() += 1.0;
        }
    }
    let weigh = |document: &'_ [String]| {
        let mut weights: HashMap<&str, f32> = HashMap::new();
        for term in document {
            let (term, count) = document_count.get_key_value(term.as_str()).expect("counted above");
            *weights.entry(*term).or_default() += (documents.len() as f32 / count).ln();
        }
        let norm = weights.values().map(|weight| weight * weight).sum::<f32>().sqrt().max(1e-12);
        weights.values_mut().for_each(|weight| *weight /= norm);
        weights
    };
    documents.iter().map(|document| weigh(document)).collect()
}

/// Mean over images of the Kendall tau between caption similarities and a weighted sum of tf-idf cosines.
fn row_wise_tau(graphs: &[&Graph], views: &[View]) -> f32 {
    let with_captions = graphs.iter().filter_map(|graph| {
        let vector = caption_vector(graph.image_id - image_id(0))?;
        Some((*graph, vector))
    });
    let (graphs, vectors): (Vec<&Graph>, Vec<&Vec<f32>>) = with_captions.unzip();
    let documents: Vec<(f32, Vec<Vec<String>>)> = views
        .iter()
        .map(|(weight, terms)| (*weight, graphs.iter().map(|graph| terms(graph)).collect()))
        .collect();
    let views: Vec<_> = documents.iter().map(|(weight, documents)| (*weight, tf_idf(documents))).collect();
    let cosine = |a: &HashMap<&str, f32>, b: &HashMap<&str, f32>| -> f32 {
        a.iter().map(|(term, weight)| weight * b.get(term).unwrap_or(&0.0)).sum()
    };
    let mut taus = Vec::new();
    for anchor in (0..graphs.len()).step_by(6) {
        let others: Vec<usize> =
            (0..graphs.len()).filter(|&other| vectors[other] != vectors[anchor]).collect();
        let score = |other: &usize| {
            views.iter().map(|(w, view)| w * cosine(&view[anchor], &view[*other])).sum::<f32>()
        };
        let scores: Vec<f32> = others.iter().map(score).collect();
        let similarities: Vec<f32> =
            others.iter().map(|&other| dot(vectors[anchor], vectors[other])).collect();
        taus.push(kendall_tau(&scores, &similarities));
    }
    mean(&taus)
}

/// Changes of the boxes must not change the graphs and captions of a seed. The checksums are those of the
/// collection before boxes followed the relationships.
#[test]
fn graphs_and_captions_are_as_they_were_before_the_boxes() {
    let [graphs, image_data, captions, _] = written_bytes(&config(400, SEED), 2);
    let mut graphs: serde_json::Value = serde_json::from_slice(&graphs).unwrap();
    for graph in graphs.as_array_mut().unwrap() {
        for object in graph["objects"].as_array_mut().unwrap() {
            for field in ["x", "y", "w", "h"] {
                assert!(object.as_object_mut().unwrap().remove(field).is_some());
            }
        }
    }
    let sum = |bytes: &[u8]| format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes));
    assert_eq!(sum(graphs.to_string().as_bytes()), "8dcdc033a1a13bea");
    assert_eq!((sum(&image_data), sum(&captions)), ("8f3d20e1d5001df4".into(), "797132a8a043ed29".into()));
}

/// Share of the relationships with these predicates; an object with several can only follow one. Randomly
/// drawn boxes satisfy 0.3 to 0.6 of them.
#[test]
fn boxes_follow_the_relationships() {
    let mut held: HashMap<&str, [u32; 2]> = HashMap::new();
    for graph in &COLLECTION.graphs {
        let objects: HashMap<u64, &Object> =
            graph.objects.iter().map(|object| (object.object_id, object)).collect();
        for relationship in &graph.relationships {
            let predicate = relationship.predicate.to_lowercase();
            let (s, o) = (objects[&relationship.subject_id], objects[&relationship.object_id]);
            let middle = |object: &Object| (2 * object.x + object.w, 2 * object.y + object.h);
            let ((sx, sy), (ox, oy)) = (middle(s), middle(o));
            let touch = s.x <= o.x + o.w && o.x <= s.x + s.w && s.y <= o.y + o.h && o.y <= s.y + s.h;
            let (name, holds) = match predicate.as_str() {
                "to the left of" => ("left", sx < ox),
                "to the right of" => ("right", sx > ox),
                "above" | "over" => ("above", sy < oy),
                "under" | "below" => ("under", sy > oy),
                "wearing" => ("wearing", touch),
                "holding" => ("holding", touch),
                "on" => ("on", touch),
                _ => continue,
            };
            let count = held.entry(name).or_default();
            count[usize::from(holds)] += 1;
        }
    }
    println!("{held:?}");
    for (name, [broken, kept]) in held {
        let share = f64::from(kept) / f64::from(broken + kept);
        assert!(kept > 20 && share > 0.65, "{name}: {kept} of {}", broken + kept);
    }
}
