//! Relationships that the images often have, and queries made of them, from which a user may start.
//!
//! A relationship counts once per image, by its types. The queries use names of different types only, so that a name means one
//! object in the text of a query.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use crate::data::Dataset;
use crate::data::query_graph::Statement;
use crate::data::scene_graph::SceneGraph;
use crate::data::vocabulary::Vocabulary;

/// Largest number of relationships that are listed.
const MOST_RELATIONSHIPS: usize = 4000;
/// Number of example queries.
const EXAMPLES: usize = 3;

/// Types of a subject, a predicate and an object.
type Types = [u32; 3];

/// What the images of a split often have.
#[derive(Debug)]
pub(super) struct Frequent {
    /// The relationships that most images have, most frequent first.
    pub relationships: Vec<Types>,
    /// Queries of frequent relationships; some image has all the relationships of a query, with the same objects.
    pub examples: Vec<Vec<Statement>>,
}

impl Frequent {
    /// Counts the relationships of the images.
    pub fn new(dataset: &Dataset, images: Range<usize>) -> Self {
        let vocabulary = dataset.vocabulary();
        let counts = counted(images.clone(), |image, found| {
            let graph = dataset.graph(image);
            found.extend(relationships(graph, vocabulary).map(|edge| types(graph, edge)));
        });
        let mut examples: Vec<Vec<Types>> = Vec::new();
        let mut used = Vec::new();
        for &first in &counts {
            let [subject, _, object] = first;
            if examples.len() == EXAMPLES {
                break;
            }
            if subject == object || used.contains(&subject) || used.contains(&object) {
                continue;
            }
            // The first example is as short as a query can be.
            let second = match examples.is_empty() {
                true => None,
                false => companion(dataset, images.clone(), first),
            };
            used.extend([subject, object]);
            examples.push([first].into_iter().chain(second).collect());
        }
        let statement = |&[subject, predicate, object]: &Types| {
            let object_name = |object: u32| vocabulary.objects()[object as usize].clone();
            vec![
                object_name(subject),
                vocabulary.predicates()[predicate as usize].clone(),
                object_name(object),
            ]
        };
        let mut examples: Vec<Vec<Statement>> =
            examples.iter().map(|query| query.iter().map(statement).collect()).collect();
        // Data with few relationships: single objects.
        let named = |examples: &[Vec<Statement>], name: &String| {
            examples.iter().flatten().flatten().any(|n| n == name)
        };
        for name in &vocabulary.objects()[..vocabulary.image_type() as usize] {
            if examples.len() < EXAMPLES && !named(&examples, name) {
                examples.push(vec![vec![name.clone()]]);
            }
        }
        let relationships = counts.into_iter().take(MOST_RELATIONSHIPS).collect();
        Frequent { relationships, examples }
    }
}

/// The relationship that most images have at the subject or the object of `first`, and that leads to a third type.
fn companion(dataset: &Dataset, images: Range<usize>, first: Types) -> Option<Types> {
    let vocabulary = dataset.vocabulary();
    let counts = counted(images, |image, found| {
        let graph = dataset.graph(image);
        for edge in relationships(graph, vocabulary).filter(|&edge| types(graph, edge) == first) {
            let ends = [graph.edge_subject[edge], graph.edge_object[edge]];
            for other in relationships(graph, vocabulary) {
                let (subject, object) = (graph.edge_subject[other], graph.edge_object[other]);
                let third = match (ends.contains(&subject), ends.contains(&object)) {
                    (true, false) => object,
                    (false, true) => subject,
                    _ => continue,
                };
                let third = graph.node_object[third as usize];
                if third != first[0] && third != first[2] {
                    found.push(types(graph, other));
                }
            }
        }
    });
    counts.first().copied()
}

/// Types that `find` finds in the images, those of most images first; ties in the order of the types.
fn counted(images: Range<usize>, mut find: impl FnMut(usize, &mut Vec<Types>)) -> Vec<Types> {
    let mut counts: HashMap<Types, usize> = HashMap::new();
    let mut found = Vec::new();
    for image in images {
        find(image, &mut found);
        found.sort_unstable();
        found.dedup();
        for types in found.drain(..) {
            *counts.entry(types).or_insert(0) += 1;
        }
    }
    let mut counts: Vec<(Types, usize)> = counts.into_iter().collect();
    counts.sort_unstable_by_key(|&(types, count)| (Reverse(count), types));
    counts.into_iter().map(|(types, _)| types).collect()
}

/// Edges of the graph that do not lead to the image node.
fn relationships(graph: SceneGraph<'_>, vocabulary: &Vocabulary) -> impl Iterator<Item = usize> {
    let in_image = vocabulary.in_image_type();
    (0..graph.edge_predicate.len()).filter(move |&edge| graph.edge_predicate[edge] != in_image)
}

fn types(graph: SceneGraph<'_>, edge: usize) -> Types {
    let object = |node: u32| graph.node_object[node as usize];
    [object(graph.edge_subject[edge]), graph.edge_predicate[edge], object(graph.edge_object[edge])]
}
