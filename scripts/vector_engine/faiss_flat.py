"""Time of faiss for 100 queries against a million rows of width 300: its exact flat index in single precision.

    pip install faiss-cpu numpy
    python scripts/vector_engine/faiss_flat.py --threads 1

`cargo bench --bench search -- "nearest of 100"` times the same search here (RAYON_NUM_THREADS=1 for one thread).
"""

import argparse
import time

import faiss
import numpy

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--rows", type=int, default=1_000_000)
parser.add_argument("--repeats", type=int, default=5)
arguments = parser.parse_args()

faiss.omp_set_num_threads(arguments.threads)
random = numpy.random.default_rng(1)
index = faiss.IndexFlatIP(300)
for _ in range(0, arguments.rows, 10_000):
    rows = random.standard_normal((10_000, 300), dtype=numpy.float32)
    index.add(rows / numpy.linalg.norm(rows, axis=1, keepdims=True))
queries = random.standard_normal((100, 300), dtype=numpy.float32)
queries /= numpy.linalg.norm(queries, axis=1, keepdims=True)
index.search(queries, 10)
for _ in range(arguments.repeats):
    wall, cpu = time.perf_counter(), time.process_time()
    index.search(queries, 10)
    print(f"{time.perf_counter() - wall:.3f} s, {time.process_time() - cpu:.3f} s of CPU")
