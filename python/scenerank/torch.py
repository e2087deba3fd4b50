"""The network as an ordinary PyTorch module, from a run folder, in PyTorch and safetensors alone.

>>> embedder = SceneGraphEmbedder.from_run("runs/paper")
>>> embedder.embed([[["man", "riding", "horse"]]])          # [1, D], rows of unit length

The module trains as any other: ``embedder.train()`` makes batch norm use the batch, and a loss is a function of its rows::

    anchor, positive, negative = (embedder(embedder.batch(graphs)) for graphs in triples)
    loss = -torch.nn.functional.logsigmoid((anchor * positive).sum(1) - (anchor * negative).sum(1)).mean()
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

__all__ = ["Batch", "SceneGraphEmbedder"]


class Batch(NamedTuple):
    """Graphs, concatenated. The last node of a graph is its image node."""

    node_object: Tensor
    """``[N]`` object type of each node."""
    node_graph: Tensor
    """``[N]`` graph of each node, ascending."""
    edge_subject: Tensor
    """``[E]`` subject node of each edge."""
    edge_predicate: Tensor
    """``[E]`` predicate type of each edge."""
    edge_object: Tensor
    """``[E]`` object node of each edge."""
    graphs: int
    """Number of graphs, G."""

    def to(self, *arguments, **options) -> Batch:
        tensors = [tensor.to(*arguments, **options) for tensor in self[:-1]]
        return Batch(*tensors, self.graphs)


class Scale(nn.Module):
    """``weight * x + bias`` in place of batch norm, where a run has it switched off."""

    def __init__(self, columns: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(columns))
        self.bias = nn.Parameter(torch.zeros(columns))
        self.register_buffer("running_mean", torch.zeros(columns))
        self.register_buffer("running_var", torch.ones(columns))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


class Block(nn.Module):
    """``relu(batch_norm(x W^T))``."""

    def __init__(self, inputs: int, columns: int, batch_norm: bool):
        super().__init__()
        self.linear = nn.Linear(inputs, columns, bias=False)
        self.norm = nn.BatchNorm1d(columns) if batch_norm else Scale(columns)
        # The count of batches is no part of a run.
        self.norm.num_batches_tracked = None

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x)))


class Edge(nn.Module):
    """Blocks on the edges of a layer: the hidden one and its heads."""

    def __init__(self, config: dict, is_last: bool):
        super().__init__()
        state, hidden, norm = config["state-width"], config["hidden-width"], config["batch-norm"]
        self.hidden = Block(3 * state, hidden, norm)
        self.subject = Block(hidden, hidden, norm)
        self.predicate = None if is_last else Block(hidden, state, norm)
        self.object = Block(hidden, hidden, norm)


class Node(nn.Module):
    """Blocks on the nodes of a layer."""

    def __init__(self, config: dict):
        super().__init__()
        state, hidden, norm = config["state-width"], config["hidden-width"], config["batch-norm"]
        self.hidden = Block(hidden, hidden, norm)
        self.output = Block(hidden, state, norm)


class Layer(nn.Module):
    """A graph convolution: new states of nodes ``[N, D]`` and of edges ``[E, D]``."""

    def __init__(self, config: dict, is_last: bool):
        super().__init__()
        self.edge = Edge(config, is_last)
        self.node = Node(config)
        self.l2_norm = config["l2-norm"]

    def forward(self, nodes: Tensor, edges: Tensor, batch: Batch):
        subject, object = batch.edge_subject, batch.edge_object
        hidden = self.edge.hidden(torch.cat([nodes[subject], edges, nodes[object]], dim=1))
        messages = torch.cat([self.edge.subject(hidden), self.edge.object(hidden)])
        receivers = torch.cat([subject, object])
        received = messages.new_zeros(len(nodes), messages.shape[1]).index_add(0, receivers, messages)
        count = torch.bincount(receivers, minlength=len(nodes)).clamp(min=1).to(messages.dtype)
        states = self.node.output(self.node.hidden(received / count[:, None]))
        if self.l2_norm:
            states = nn.functional.normalize(states, dim=1, eps=1e-12)
        return states, None if self.edge.predicate is None else self.edge.predicate(hidden)


class SceneGraphEmbedder(nn.Module):
    """Embeds scene graphs as unit vectors. Parameters are named as in the run's checkpoint.

    ``config`` has the sizes and switches of the checkpoint's ``model`` entry, and ``vocabulary`` its names.
    """

    def __init__(self, config: dict, vocabulary: dict):
        super().__init__()
        config = {"batch-norm": True, "l2-norm": True, "image-node-in-mean": True, **config}
        self.config, self.vocabulary = config, vocabulary
        self.object_embedding = nn.Embedding(config["object-types"], config["state-width"])
        self.predicate_embedding = nn.Embedding(config["predicate-types"], config["state-width"])
        layers = config["layers"]
        self.layers = nn.ModuleList(Layer(config, layer + 1 == layers) for layer in range(layers))
        # An annotated type keeps its name beside the last type, that of the image node.
        self._objects = {name: at for at, name in reversed(list(enumerate(vocabulary["objects"])))}
        self._predicates = {name: at for at, name in reversed(list(enumerate(vocabulary["predicates"])))}

    @classmethod
    def from_run(cls, folder, checkpoint: str = "best") -> SceneGraphEmbedder:
        """The network of a run folder, in evaluation mode."""
        path = Path(folder) / f"{checkpoint}.safetensors"
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
            if "vocabulary" not in config:
                raise ValueError(f"{path}: has no vocabulary; it was written by an older version, train the run again")
            embedder = cls(config["model"], config["vocabulary"])
            names = embedder.state_dict().keys()
            # Not strict: batch norm asks for the count of batches. Every other tensor is named here.
            embedder.load_state_dict({name: file.get_tensor(name) for name in names}, strict=False)
        return embedder.eval()

    def batch(self, graphs) -> Batch:
        """Concatenates graphs, each a list of statements ``[subject, predicate, object]`` or ``[object]``."""
        node_object, node_graph, edges = [], [], []
        for number, statements in enumerate(graphs):
            first, nodes, relationships = len(node_object), {}, {}
            for statement in statements:
                if len(statement) not in (1, 3):
                    raise ValueError(f"graph {number}: {list(statement)} is not an object or a relationship")
                names = [name.strip().lower() for name in statement]
                # A set that keeps its order: a repeated statement counts once.
                ends = [nodes.setdefault(name, len(nodes)) for name in names[::2]]
                if len(names) == 3:
                    predicate = self._type(self._predicates, "predicate", names[1], number)
                    relationships[ends[0], predicate, ends[1]] = None
            if not nodes:
                raise ValueError(f"graph {number}: has no object")
            for name in nodes:
                known = name if name in self._objects else name.split("#")[0].strip()
                node_object.append(self._type(self._objects, "object", known, number))
            image = len(nodes)
            node_object.append(len(self.vocabulary["objects"]) - 1)
            node_graph += [number] * (image + 1)
            in_image = len(self.vocabulary["predicates"]) - 1
            edges += [(first + s, p, first + o) for s, p, o in relationships]
            edges += [(first + node, in_image, first + image) for node in range(image)]
        subject, predicate, object = (list(column) for column in zip(*edges)) if edges else ([], [], [])
        device = self.object_embedding.weight.device
        tensors = [node_object, node_graph, subject, predicate, object]
        tensors = [torch.tensor(values, dtype=torch.long, device=device) for values in tensors]
        return Batch(*tensors, node_graph[-1] + 1 if node_graph else 0)

    @staticmethod
    def _type(types: dict, kind: str, name: str, number: int) -> int:
        if name not in types:
            raise ValueError(f'graph {number}: the run has no {kind} "{name}"')
        return types[name]

    def forward(self, batch: Batch) -> Tensor:
        """``[G, D]`` embeddings of unit length."""
        nodes = self.object_embedding(batch.node_object)
        edges = self.predicate_embedding(batch.edge_predicate)
        for layer in self.layers:
            nodes, edges = layer(nodes, edges, batch)
        counted = torch.ones_like(batch.node_graph, dtype=nodes.dtype)
        if not self.config["image-node-in-mean"]:
            counted = (batch.node_object != len(self.vocabulary["objects"]) - 1).to(nodes.dtype)
        sums = nodes.new_zeros(batch.graphs, nodes.shape[1])
        sums = sums.index_add(0, batch.node_graph, nodes * counted[:, None])
        # The mean has the direction of the sum.
        return nn.functional.normalize(sums, dim=1, eps=1e-12)

    @torch.no_grad()
    def embed(self, graphs, batch_size: int = 64) -> Tensor:
        """``[len(graphs), D]`` embeddings of graphs by the running statistics, without gradients."""
        was_training = self.training
        self.eval()
        try:
            rows = [self(self.batch(graphs[at : at + batch_size])) for at in range(0, len(graphs), batch_size)]
        finally:
            self.train(was_training)
        return torch.cat(rows) if rows else torch.empty(0, self.config["state-width"])
