"""Image embeddings from scene graphs: trained runs, embeddings and training.

A graph is a list of statements, each ``[subject, predicate, object]`` or ``[object]``. The same name means the same object;
``man`` and ``man#2`` are two men. Problems with an input are ``ValueError``.

``scenerank.torch`` has the network as an ordinary PyTorch module. It does not need the compiled part of this package.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

import numpy as np

try:
    from . import _scenerank
except ImportError:  # scenerank.torch works without it
    _scenerank = None

__all__ = ["Embeddings", "GraphRows", "Run", "Sentence", "train"]


def _compiled():
    if _scenerank is None:
        raise ImportError("the compiled part of scenerank is not installed: pip install ./python")
    return _scenerank


def _rows(values: bytes, width: int) -> np.ndarray:
    return np.frombuffer(values, dtype="<f4").reshape(-1, width).copy()


class GraphRows(NamedTuple):
    """Embeddings of the graphs of a file."""

    ids: np.ndarray
    """``[graphs]`` ids of the images, or numbers of the graphs."""
    image_files: list
    """``[graphs]`` files of the images, or nothing if the file does not name them."""
    rows: np.ndarray
    """``[graphs, D]`` embeddings, each of unit length."""
    counts: dict
    """What was left out: unknown names with their counts, and ids of graphs without a known object."""


class Sentence(NamedTuple):
    """The graph that a sentence describes."""

    graph: list
    """Statements of the graph."""
    not_understood: list
    """Words that name nothing that the run knows."""


class Run:
    """A trained run, opened from its folder. Its data file is needed only for ``embeddings`` and ``captions``."""

    def __init__(self, folder, *, checkpoint="best", data=None, device="auto", precision="fp32"):
        data = None if data is None else os.fspath(data)
        self._run = _compiled().Run(os.fspath(folder), checkpoint, data, device, precision)
        self.objects, self.predicates = self._run.names()
        """Names of the object and predicate types, the most frequent first."""

    @property
    def id(self) -> str:
        """Identity of the model."""
        return self._run.id()

    @property
    def dimension(self) -> int:
        """Width of the embeddings, D."""
        return self._run.width()

    @property
    def config(self) -> dict:
        """Configuration of the run, as its checkpoint has it."""
        return json.loads(self._run.config())

    def embed(self, graphs, *, skip_unknown=False) -> np.ndarray:
        """``[len(graphs), D]`` embeddings of graphs. An unknown name is an error, or with ``skip_unknown`` left out."""
        graphs = [[list(map(str, statement)) for statement in graph] for graph in graphs]
        return _rows(self._run.embed(graphs, skip_unknown), self.dimension)

    def embed_file(
        self,
        path,
        *,
        data_info=None,
        min_object_score=0.0,
        min_relationship_score=0.0,
        top_objects=30,
        top_relationships=20,
    ) -> GraphRows:
        """Embeddings of the graphs in a file, as ``scenerank embed --graphs`` reads it."""
        limits = (min_object_score, min_relationship_score, top_objects, top_relationships)
        data_info = None if data_info is None else os.fspath(data_info)
        ids, files, rows, counts = self._run.embed_file(os.fspath(path), data_info, limits)
        return GraphRows(np.array(ids, np.uint64), files, _rows(rows, self.dimension), json.loads(counts))

    def embeddings(self, split="all"):
        """Ids ``[images]`` and embeddings ``[images, D]`` of a split of the run's data: train, validation, test or all."""
        ids, rows = self._run.embeddings(split)
        return np.array(ids, np.uint64), _rows(rows, self.dimension)

    def captions(self, image_id) -> list:
        """Captions of an image of the data."""
        return self._run.captions(int(image_id))

    def understand(self, text) -> Sentence:
        """The graph that a sentence describes, by the names that the run knows."""
        return Sentence(*self._run.understand(text))


class Embeddings:
    """Rows of a ``.npy`` file that ``scenerank embed`` wrote, mapped into memory."""

    def __init__(self, file):
        self._path = os.fspath(file)
        self._file = _compiled().Embeddings(self._path)
        ids = self._file.ids()
        self.ids = np.arange(len(self), dtype=np.uint64) if ids is None else np.array(ids, np.uint64)
        """``[rows]`` ids of the images; numbers of the rows if the file has no description beside it."""
        self.image_files = self._file.image_files()
        """``[rows]`` files of the images, or nothing if they are not known."""
        self.model = self._file.model()
        """Identity of the model that computed the rows, if it is known."""

    def __len__(self) -> int:
        return self._file.shape()[0]

    @property
    def shape(self) -> tuple:
        """Number of rows, and their width."""
        return self._file.shape()

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        rows = np.load(self._path)
        return rows if dtype is None else rows.astype(dtype)

    def nearest(self, queries, k=10):
        """Ids and cosines ``[queries, k]`` of the rows nearest to each query ``[queries, D]``, the best first."""
        queries = np.ascontiguousarray(queries, dtype="<f4")
        if queries.ndim == 1:
            queries = queries[None, :]
        if queries.ndim != 2 or queries.shape[1] != self.shape[1]:
            raise ValueError(f"queries: shape {list(queries.shape)}, where rows of {self.shape[1]} values are compared")
        if k < 1:
            raise ValueError(f"k: {k}; ask for at least one row")
        rows, cosines = self._file.nearest(queries.tobytes(), k)
        shape = (len(queries), min(k, len(self)))
        return self.ids[np.array(rows, np.intp)].reshape(shape), np.frombuffer(cosines, "<f4").reshape(shape).copy()


def train(data, out, *, resume=False, **options) -> dict:
    """Trains a run in the folder ``out`` on a data file that ``scenerank prepare`` wrote, and returns its outcome.

    Options are those of the command line with underscores: ``train("vg.data", "runs/mine", epochs=20, learning_rate=3e-4)``.
    An interrupt finishes the step and saves, then raises ``KeyboardInterrupt``; ``resume=True`` continues.
    """
    options = json.dumps({name.replace("_", "-"): value for name, value in options.items()}, default=os.fspath)
    return json.loads(_compiled().train(os.fspath(data), os.fspath(out), options, resume))
