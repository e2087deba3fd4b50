"""A small trained run. SCENERANK_PROGRAM names the `scenerank` program, by which the data are made and results compared."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def program():
    path = os.environ.get("SCENERANK_PROGRAM")
    if not path:
        pytest.skip("SCENERANK_PROGRAM names no program")
    return lambda *arguments: subprocess.run([path, "-q", *map(str, arguments)], check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def trained(program, tmp_path_factory):
    import scenerank

    folder = tmp_path_factory.mktemp("trained")
    raw, data, run = folder / "raw", folder / "data", folder / "run"
    program("synth", raw, "--images", 300, "--seed", 1)
    files = {name: raw / name for name in ("scene_graphs.json", "image_data.json", "captions.json", "glove.txt")}
    program(
        "prepare", "--scene-graphs", files["scene_graphs.json"], "--image-data", files["image_data.json"],
        "--captions", files["captions.json"], "--glove", files["glove.txt"], "--out", data, "--min-occurrences", 15,
    )  # fmt: skip
    network = dict(layers=2, state_width=16, hidden_width=24, batch_size=8)
    outcome = scenerank.train(data, run, epochs=2, device="cpu", learning_rate=1e-3, **network)
    return SimpleNamespace(folder=folder, data=data, run=run, outcome=outcome, network=network)


@pytest.fixture(scope="session")
def graphs(trained):
    """Graphs in the names of the run, one with parallel edges, a loop and two objects of a type."""
    import scenerank

    run = scenerank.Run(trained.run)
    objects, predicates = run.objects, run.predicates
    graphs = [[[a, p, b], [b]] for a, b, p in zip(objects, objects[3:], predicates * 9)][:70]
    first, second, third = objects[:3]
    graphs[0] = [[first, predicates[0], first + "#2"], [first, predicates[1], first + "#2"], [second, predicates[2], second], [third.upper()]]
    return graphs


@pytest.fixture(scope="session")
def written(program, trained, graphs):
    """Rows that the command `embed` writes for the graphs."""
    import numpy as np

    file, out = trained.folder / "graphs.json", trained.folder / "graphs.npy"
    file.write_text(json.dumps(graphs))
    program("embed", trained.run, "--graphs", file, "--out", out, "--device", "cpu")
    return SimpleNamespace(file=file, out=out, rows=np.load(out))
