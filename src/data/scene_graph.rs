//! Scene graph of one image: typed nodes and directed, typed edges.
//!
//! Every graph is *augmented* (docs/model.md, "Scene graph"). Its last node has the type `image`, the last object
//! type. Every other node has an edge `in image`, the last predicate type, to it. The annotated relationships
//! come first, then the `in image` edges in the order of the nodes.

/// A borrowed scene graph; node indices are local to the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SceneGraph<'a> {
    /// `[nodes] -> object type` type of each node; the image node is last.
    pub node_object: &'a [u32],
    /// `[edges] -> node` subject of each edge.
    pub edge_subject: &'a [u32],
    /// `[edges] -> predicate type` type of each edge.
    pub edge_predicate: &'a [u32],
    /// `[edges] -> node` object of each edge.
    pub edge_object: &'a [u32],
}

/// An owned scene graph, for queries and for graphs under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SceneGraphBuf {
    /// `[nodes] -> object type` type of each node; the image node is last.
    pub node_object: Vec<u32>,
    /// `[edges] -> node` subject of each edge.
    pub edge_subject: Vec<u32>,
    /// `[edges] -> predicate type` type of each edge.
    pub edge_predicate: Vec<u32>,
    /// `[edges] -> node` object of each edge.
    pub edge_object: Vec<u32>,
}

impl SceneGraph<'_> {
    /// Number of nodes, including the image node.
    pub fn node_count(&self) -> usize {
        self.node_object.len()
    }

    /// Number of edges, including the `in image` edges.
    pub fn edge_count(&self) -> usize {
        self.edge_subject.len()
    }
}

impl From<SceneGraph<'_>> for SceneGraphBuf {
    fn from(graph: SceneGraph<'_>) -> Self {
        SceneGraphBuf {
            node_object: graph.node_object.to_vec(),
            edge_subject: graph.edge_subject.to_vec(),
            edge_predicate: graph.edge_predicate.to_vec(),
            edge_object: graph.edge_object.to_vec(),
        }
    }
}

impl SceneGraphBuf {
    /// Borrows the graph.
    pub fn view(&self) -> SceneGraph<'_> {
        SceneGraph {
            node_object: &self.node_object,
            edge_subject: &self.edge_subject,
            edge_predicate: &self.edge_predicate,
            edge_object: &self.edge_object,
        }
    }

    /// Builds the augmented graph of `objects` (types) and `relationships` (subject node, predicate type,
    /// object node): appends the image node of type `image`, and one edge of type `in_image` per object.
    pub fn augmented(objects: &[u32], relationships: &[(u32, u32, u32)], image: u32, in_image: u32) -> Self {
        let mut graph = SceneGraphBuf { node_object: objects.to_vec(), ..Default::default() };
        let image_node = objects.len() as u32;
        graph.node_object.push(image);
        for &(subject, predicate, object) in relationships {
            graph.push_edge(subject, predicate, object);
        }
        for node in 0..image_node {
            graph.push_edge(node, in_image, image_node);
        }
        graph
    }

    /// Appends one edge.
    pub fn push_edge(&mut self, subject: u32, predicate: u32, object: u32) {
        self.edge_subject.push(subject);
        self.edge_predicate.push(predicate);
        self.edge_object.push(object);
    }
}
