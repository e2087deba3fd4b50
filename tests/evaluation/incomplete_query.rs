//! Incomplete queries: removed edges, removed nodes, and nested sweeps.

use proptest::prelude::*;
use scenerank::data::scene_graph::{SceneGraph, SceneGraphBuf};
use scenerank::evaluation::{QueryEdges, incomplete_query};

const IMAGE: u32 = 1000;
const IN_IMAGE: u32 = 2000;

/// Graphs whose objects have their index as type, so that a node is recognised after renumbering;
/// relationships likewise have their index as predicate type. Self loops and parallel edges occur.
fn graphs() -> impl Strategy<Value = SceneGraphBuf> {
    (1u32..12).prop_flat_map(|objects| {
        prop::collection::vec((0..objects, 0..objects), 0..20).prop_map(move |ends| {
            let relationships: Vec<_> = ends
                .into_iter()
                .zip(0..)
                .map(|((subject, object), predicate)| (subject, predicate, object))
                .collect();
            SceneGraphBuf::augmented(&(0..objects).collect::<Vec<_>>(), &relationships, IMAGE, IN_IMAGE)
        })
    })
}

fn query(graph: &SceneGraphBuf, remove: usize, edges: QueryEdges) -> SceneGraphBuf {
    incomplete_query(graph.view(), remove, edges, IN_IMAGE, 7, 42)
}

/// Edges as (subject type, predicate type, object type).
fn typed_edges(graph: SceneGraph<'_>) -> Vec<(u32, u32, u32)> {
    (0..graph.edge_count())
        .map(|edge| {
            let object_type = |node: u32| graph.node_object[node as usize];
            (
                object_type(graph.edge_subject[edge]),
                graph.edge_predicate[edge],
                object_type(graph.edge_object[edge]),
            )
        })
        .collect()
}

fn is_subsequence<T: PartialEq>(part: &[T], whole: &[T]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|item| rest.any(|other| other == item))
}

fn relationship_count(graph: &SceneGraphBuf) -> usize {
    graph.edge_predicate.iter().filter(|&&predicate| predicate != IN_IMAGE).count()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn augmented_removes_any_edges_and_the_nodes_they_leave_alone(graph in graphs(), remove in 0usize..40) {
        let got = query(&graph, remove, QueryEdges::Augmented);
        let edges = graph.view().edge_count();
        prop_assert_eq!(got.view().edge_count(), edges - remove.min(edges - 1));
        for node in 0..got.view().node_count() as u32 {
            prop_assert!(got.edge_subject.contains(&node) || got.edge_object.contains(&node));
        }
        prop_assert!(is_subsequence(&got.node_object, &graph.node_object));
        prop_assert!(is_subsequence(&typed_edges(got.view()), &typed_edges(graph.view())));
    }

    #[test]
    fn relationships_keep_the_image_node_and_its_edges_from_the_rest(graph in graphs(), remove in 0usize..40) {
        let got = query(&graph, remove, QueryEdges::Relationships);
        let relationships = relationship_count(&graph);
        if relationships == 0 {
            prop_assert_eq!(got, graph);
            return Ok(());
        }
        prop_assert_eq!(relationship_count(&got), relationships - remove.min(relationships - 1));
        let objects = got.view().node_count() - 1;
        prop_assert_eq!(got.node_object[objects], IMAGE);
        for node in 0..objects as u32 {
            let touches = |edge: usize| got.edge_subject[edge] == node || got.edge_object[edge] == node;
            let (mut in_image, mut related) = (0, 0);
            for edge in (0..got.view().edge_count()).filter(|&edge| touches(edge)) {
                if got.edge_predicate[edge] == IN_IMAGE { in_image += 1 } else { related += 1 }
            }
            prop_assert_eq!(in_image, 1);
            prop_assert!(related > 0);
        }
        prop_assert!(is_subsequence(&got.node_object, &graph.node_object));
        prop_assert!(is_subsequence(&typed_edges(got.view()), &typed_edges(graph.view())));
    }

    #[test]
    fn removing_more_removes_the_same_and_more(graph in graphs(), remove in 0usize..40) {
        for edges in [QueryEdges::Augmented, QueryEdges::Relationships] {
            let (less, more) = (query(&graph, remove, edges), query(&graph, remove + 1, edges));
            prop_assert!(is_subsequence(&more.node_object, &less.node_object));
            prop_assert!(is_subsequence(&typed_edges(more.view()), &typed_edges(less.view())));
            prop_assert_eq!(&query(&graph, remove, edges), &less);
        }
    }
}

#[test]
fn nothing_removed_from_all_edges_is_the_graph_itself() {
    let graph = SceneGraphBuf::augmented(&[0, 1, 2], &[(0, 0, 1), (0, 0, 1), (2, 1, 2)], IMAGE, IN_IMAGE);
    assert_eq!(query(&graph, 0, QueryEdges::Augmented), graph);
}

#[test]
fn the_last_edge_stays() {
    let one = SceneGraphBuf::augmented(&[5], &[], IMAGE, IN_IMAGE);
    for edges in [QueryEdges::Augmented, QueryEdges::Relationships] {
        assert_eq!(query(&one, 12, edges), one);
    }
    let loop_edge = SceneGraphBuf::augmented(&[3, 4], &[(0, 8, 0)], IMAGE, IN_IMAGE);
    let got = query(&loop_edge, 12, QueryEdges::Relationships);
    assert_eq!(got, SceneGraphBuf::augmented(&[3], &[(0, 8, 0)], IMAGE, IN_IMAGE));

    let empty = SceneGraphBuf::augmented(&[], &[], IMAGE, IN_IMAGE);
    for edges in [QueryEdges::Augmented, QueryEdges::Relationships] {
        assert_eq!(query(&empty, 1, edges), empty);
    }
}

#[test]
fn every_edge_is_about_as_likely_to_go() {
    let objects: Vec<u32> = (0..10).collect();
    let relationships: Vec<_> = (0..10).map(|i| (i, i, (i + 1) % 10)).collect();
    let graph = SceneGraphBuf::augmented(&objects, &relationships, IMAGE, IN_IMAGE);
    let mut kept = [0u32; 20];
    let all = typed_edges(graph.view());
    for image in 0..4000 {
        let got = incomplete_query(graph.view(), 10, QueryEdges::Augmented, IN_IMAGE, 1, image);
        for edge in typed_edges(got.view()) {
            kept[all.iter().position(|&other| other == edge).unwrap()] += 1;
        }
    }
    // 2000 expected; the standard deviation is 32.
    assert!(kept.iter().all(|&count| count.abs_diff(2000) < 160), "{kept:?}");
    let other_seed = incomplete_query(graph.view(), 10, QueryEdges::Augmented, IN_IMAGE, 2, 42);
    assert_ne!(other_seed, incomplete_query(graph.view(), 10, QueryEdges::Augmented, IN_IMAGE, 1, 42));
}
