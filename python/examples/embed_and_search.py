"""Loads a run, embeds ten graphs, searches the run's images for each, and plots what was found.

    python embed_and_search.py runs/paper [PLOT.png]
"""

import sys

import numpy as np

import scenerank

folder, *plot = sys.argv[1:]
run = scenerank.Run(folder)
ids, rows = run.embeddings("test")

# Ten graphs: each of the most frequent objects with the most frequent predicate and the next object.
names = run.objects[:11]
graphs = [[[subject, run.predicates[0], object]] for subject, object in zip(names, names[1:])]
queries = run.embed(graphs)
cosines = queries @ rows.T

for graph, row in zip(graphs, cosines):
    best = np.argsort(-row)[:3]
    print(" ".join(graph[0]))
    for at in best:
        print(f"    image {ids[at]}: cosine {row[at]:.4f}  {run.captions(ids[at])[0]}")

if plot:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 6))
    centre = rows.mean(0)
    _, _, directions = np.linalg.svd(rows - centre, full_matrices=False)
    for values, label, size in [(rows, "test images", 8), (queries, "queries", 40)]:
        x, y = ((values - centre) @ directions[:2].T).T
        axes.scatter(x, y, s=size, label=label)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    axes.legend()
    figure.savefig(plot[0])
