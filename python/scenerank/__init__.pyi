from os import PathLike
from typing import Any, NamedTuple, Optional, Sequence, Union

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_Path = Union[str, "PathLike[str]"]
Statement = Sequence[str]
Graph = Sequence[Statement]

class GraphRows(NamedTuple):
    ids: NDArray[np.uint64]
    image_files: list[str]
    rows: NDArray[np.float32]
    counts: dict[str, Any]

class Sentence(NamedTuple):
    graph: list[list[str]]
    not_understood: list[str]

class Run:
    objects: list[str]
    predicates: list[str]
    def __init__(
        self,
        folder: _Path,
        *,
        checkpoint: str = "best",
        data: Optional[_Path] = None,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None: ...
    @property
    def id(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def config(self) -> dict[str, Any]: ...
    def embed(self, graphs: Sequence[Graph], *, skip_unknown: bool = False) -> NDArray[np.float32]: ...
    def embed_file(
        self,
        path: _Path,
        *,
        data_info: Optional[_Path] = None,
        min_object_score: float = 0.0,
        min_relationship_score: float = 0.0,
        top_objects: int = 30,
        top_relationships: int = 20,
    ) -> GraphRows: ...
    def embeddings(self, split: str = "all") -> tuple[NDArray[np.uint64], NDArray[np.float32]]: ...
    def captions(self, image_id: int) -> list[str]: ...
    def understand(self, text: str) -> Sentence: ...

class Embeddings:
    ids: NDArray[np.uint64]
    image_files: list[str]
    model: Optional[str]
    def __init__(self, file: _Path) -> None: ...
    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def __array__(self, dtype: DTypeLike = None, copy: Optional[bool] = None) -> NDArray[Any]: ...
    def nearest(self, queries: ArrayLike, k: int = 10) -> tuple[NDArray[np.uint64], NDArray[np.float32]]: ...

def train(data: _Path, out: _Path, *, resume: bool = False, **options: Any) -> dict[str, Any]: ...
