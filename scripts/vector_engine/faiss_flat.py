"""Time of the exact search for 100 queries in a million rows of width 300: scenerank and faiss in turn, in one process.

    pip install ./python faiss-cpu numpy
    python scripts/vector_engine/faiss_flat.py --threads 1 --half

The rows are those of a temporary .npy file, which scenerank maps; faiss copies them into its flat index. Prints each pair of
times, the ratio of the medians, and whether both found the same rows. With --half the file holds half precision; faiss then
searches the same values in single precision (IndexFlatIP) and in half precision (IndexScalarQuantizer).
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--rows", type=int, default=1_000_000)
parser.add_argument("--queries", type=int, default=100)
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--half", action="store_true", help="rows in half precision")
arguments = parser.parse_args()
# Both libraries read it when they start their threads.
os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import faiss  # noqa: E402
import numpy  # noqa: E402

import scenerank  # noqa: E402

WIDTH, NEAREST = 300, 10
faiss.omp_set_num_threads(arguments.threads)
random = numpy.random.default_rng(1)


def unit_rows(count):
    rows = random.standard_normal((count, WIDTH), dtype=numpy.float32)
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)


def timed(search):
    """Result, seconds, and seconds of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = search()
    return found, time.perf_counter() - wall, time.process_time() - cpu


queries = unit_rows(arguments.queries)
indices = {"faiss IndexFlatIP": faiss.IndexFlatIP(WIDTH)}
if arguments.half:
    half = faiss.IndexScalarQuantizer(WIDTH, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    half.train(queries)
    indices["faiss IndexScalarQuantizer"] = half
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "rows.npy")
    shape = (arguments.rows, WIDTH)
    rows = numpy.lib.format.open_memmap(path, "w+", numpy.float16 if arguments.half else numpy.float32, shape)
    for first in range(0, arguments.rows, 10_000):
        part = rows[first : first + 10_000]
        part[:] = unit_rows(len(part))
        for index in indices.values():
            index.add(part.astype(numpy.float32))
    rows.flush()
    del rows
    ours = scenerank.Embeddings(path)
    for name, index in indices.items():
        times = []
        for repeat in range(arguments.repeats + 1):
            (own, _), own_wall, own_cpu = timed(lambda: ours.nearest(queries, NEAREST))
            (_, other), wall, cpu = timed(lambda: index.search(queries, NEAREST))
            if repeat:  # the first one warms up
                times.append((own_wall, wall, own_cpu, cpu))
                print(f"scenerank {own_wall:.3f} s ({own_cpu:.3f} s of CPU), {name} {wall:.3f} s ({cpu:.3f} s of CPU)")
        own_wall, wall, own_cpu, cpu = (statistics.median(column) for column in zip(*times))
        same = (own == other).all(axis=1).sum()
        print(
            f"{name}, {arguments.threads} threads: medians {own_wall:.3f} s and {wall:.3f} s, {wall / own_wall:.2f} times; "
            f"of CPU {cpu / own_cpu:.2f} times; the same {NEAREST} rows for {same} of {len(queries)} queries"
        )
