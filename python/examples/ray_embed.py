"""Embeds a collection of any size with Ray Data: lines of graphs in, Parquet files of `image_id` and `embedding` out.

    pip install ./python "ray[data]"
    python ray_embed.py runs/paper graphs.jsonl rows

A line is a graph as `scenerank embed --graphs` reads it: {"image_id": 7, "objects": ["man", "horse"], "relationships":
[[0, "riding", 1]]}. Each worker is a process with the model; a cluster's nodes need the run folder, not the data. Graphs without an
object that the model knows are left out, and so are unknown names of other graphs.
"""

import argparse
import json

import numpy as np
import pyarrow as pa
import ray

import scenerank


def statements(record, known):
    """The graph by names; objects of one name are told apart by their positions. `None` without a known object."""
    names = [f"{name}#{position}" for position, name in enumerate(record["objects"])]
    if not any(name.strip().lower() in known for name in record["objects"]):
        return None
    relationships = record.get("relationships", [])
    return [[name] for name in names] + [[names[s], predicate, names[o]] for s, predicate, o in relationships]


class Embed:
    """A worker: the model is loaded once and embeds one batch of lines after the other."""

    def __init__(self, folder):
        self.run = scenerank.Run(folder, device="cpu")
        self.known = set(self.run.objects)

    def __call__(self, lines):
        records = [json.loads(line) for line in lines["text"]]
        graphs = [(record["image_id"], statements(record, self.known)) for record in records]
        ids = [image for image, graph in graphs if graph]
        rows = self.run.embed([graph for _, graph in graphs if graph], skip_unknown=True)
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), self.run.dimension)
        return pa.table({"image_id": pa.array(np.array(ids, np.uint64)), "embedding": values})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("graphs", help="file or folder of lines, here or on S3")
    parser.add_argument("out", help="folder of Parquet files")
    parser.add_argument("--workers", type=int, help="processes that embed; default: one less than there are CPUs")
    parser.add_argument("--batch", type=int, default=1024, help="graphs at a time")
    arguments = parser.parse_args()
    # One thread for each worker, which reserves one CPU. One more CPU reads and writes: without it nothing would move.
    ray.init(runtime_env={"env_vars": {"RAYON_NUM_THREADS": "1"}})
    most = max(1, int(ray.cluster_resources()["CPU"]) - 1)
    workers = min(arguments.workers or most, most)
    rows = ray.data.read_text(arguments.graphs).map_batches(
        Embed,
        fn_constructor_args=(arguments.run,),
        batch_size=arguments.batch,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    rows.write_parquet(arguments.out)
    print(f"{ray.data.read_parquet(arguments.out).count()} images")


if __name__ == "__main__":
    main()
