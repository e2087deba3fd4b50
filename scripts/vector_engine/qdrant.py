"""Loads an Arrow file of `scenerank embed --format arrow` into Qdrant, and finds the nearest images of a query.

    pip install qdrant-client pyarrow
    python scripts/vector_engine/qdrant.py all.arrow query.npy -k 8                  # within this process
    python scripts/vector_engine/qdrant.py all.arrow query.npy --url http://host:6333 --shards 6

Prints a JSON list of {"image_id", "split", "cosine"}, best first. docs/vector_engine.md explains it.
"""

import argparse
import json

import numpy
import pyarrow
import pyarrow.ipc
from qdrant_client import QdrantClient, models

COLLECTION = "scenerank"
POINTS_PER_REQUEST = 1024  # 1.2 MB of the paper's width; a server takes up to 32 MB


def points(table):
    """Yields the rows of the table in parts of the size of a request, without copies before sending."""
    for batch in table.to_batches(max_chunksize=POINTS_PER_REQUEST):
        width = batch.schema.field("embedding").type.list_size
        yield models.Batch(
            ids=batch.column("image_id").to_pylist(),
            vectors=batch.column("embedding").flatten().to_numpy().reshape(-1, width).tolist(),
            payloads=[{"split": split} for split in batch.column("split").to_pylist()],
        )


def load(client, table, shards):
    """Creates the collection. Rows have unit length, so the inner product is the cosine, as in `scenerank search`."""
    width = table.schema.field("embedding").type.list_size
    client.create_collection(
        COLLECTION,
        vectors_config=models.VectorParams(size=width, distance=models.Distance.DOT),
        shard_number=shards,
    )
    for part in points(table):
        client.upsert(COLLECTION, points=part)


def nearest(client, query, k, split):
    query_filter = None
    if split:
        own_split = models.FieldCondition(key="split", match=models.MatchValue(value=split))
        query_filter = models.Filter(must=[own_split])
    found = client.query_points(
        COLLECTION,
        query=query.tolist(),
        limit=k,
        query_filter=query_filter,
        # Compares every point, like `scenerank search`. Otherwise the index gives an approximate answer, faster.
        search_params=models.SearchParams(exact=True),
    )
    return [
        {"image_id": point.id, "split": point.payload["split"], "cosine": point.score}
        for point in found.points
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help="Arrow file of `scenerank embed --format arrow`")
    parser.add_argument("query", help=".npy file of `scenerank search --query-out`")
    parser.add_argument("--url", help="URL of a Qdrant server; default: within this process")
    parser.add_argument("--shards", type=int, default=1, help="number of shards, distributed over the nodes of a cluster")
    parser.add_argument("--split", help="only images of this split")
    parser.add_argument("-k", type=int, default=8)
    arguments = parser.parse_args()

    client = QdrantClient(url=arguments.url) if arguments.url else QdrantClient(":memory:")
    if not client.collection_exists(COLLECTION):
        with pyarrow.memory_map(arguments.embeddings) as file:
            load(client, pyarrow.ipc.open_file(file).read_all(), arguments.shards)
    query = numpy.load(arguments.query)[0]
    print(json.dumps(nearest(client, query, arguments.k, arguments.split)))


if __name__ == "__main__":
    main()
