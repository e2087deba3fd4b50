"""The compiled part: the same numbers as the commands, and our messages as ValueError."""

import json
import shutil

import numpy as np
import pytest

import scenerank


def test_training_returns_its_outcome_and_continues(trained, tmp_path):
    assert trained.outcome["epochs"] == 2 and not trained.outcome["interrupted"]
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    assert scenerank.train(trained.data, run, resume=True, epochs=3)["epochs"] == 3
    with pytest.raises(ValueError, match="batch-sise"):
        scenerank.train(trained.data, tmp_path / "other", batch_sise=3)
    with pytest.raises(ValueError, match="--layers: is 0; give a positive number"):
        scenerank.train(trained.data, tmp_path / "other", layers=0)


def test_graphs_are_embedded_as_by_the_command(trained, graphs, written):
    run = scenerank.Run(trained.run, device="cpu")
    rows = run.embed(graphs)
    assert rows.dtype == np.float32 and rows.shape == (len(graphs), run.dimension)
    assert np.abs(rows - written.rows).max() < 1e-5
    of_file = run.embed_file(written.file)
    assert np.abs(of_file.rows - written.rows).max() < 1e-5
    assert of_file.ids.tolist() == list(range(len(graphs))) and of_file.counts["unknown_objects"] == []
    assert run.embed([]).shape == (0, run.dimension)


def test_unknown_names_are_errors_or_left_out(trained, graphs):
    run = scenerank.Run(trained.run, device="cpu")
    with pytest.raises(ValueError, match='graph 1: statement 1: the data has no object "yeti"'):
        run.embed([graphs[0], [["yeti"]]])
    known = run.embed([graphs[1]])
    assert np.array_equal(run.embed([graphs[1] + [["yeti"]]], skip_unknown=True), known)
    with pytest.raises(ValueError, match="graph 1 has no object of a known name"):
        run.embed([graphs[1], [["yeti"]]], skip_unknown=True)


def test_a_run_needs_its_data_only_for_its_images(trained, program, tmp_path):
    written = tmp_path / "test.npy"
    program("embed", trained.run, "--split", "test", "--out", written, "--device", "cpu")
    run = scenerank.Run(trained.run, device="cpu")
    ids, rows = run.embeddings("test")
    assert np.abs(rows - np.load(written)).max() < 1e-5
    assert len(run.captions(ids[0])) > 0
    alone = tmp_path / "alone"
    shutil.copytree(trained.run, alone)
    moved = scenerank.Run(alone, data=tmp_path / "nowhere")
    assert moved.id == run.id and moved.config["model"]["layers"] == 2
    with pytest.raises(ValueError, match="nowhere: cannot read"):
        moved.embeddings("test")
    with pytest.raises(ValueError, match="split"):
        run.embeddings("tests")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        scenerank.Run(tmp_path)


def test_the_nearest_rows_are_those_of_the_search(trained, graphs, program, tmp_path):
    file, query = tmp_path / "all.npy", tmp_path / "query.json"
    program("embed", trained.run, "--out", file, "--device", "cpu")
    query.write_text(json.dumps(graphs[0]))
    arguments = ("--graph", query, "--embeddings", file, "-k", 7, "--device", "cpu", "--json")
    want = json.loads(program("search", trained.run, *arguments).stdout)
    run, stored = scenerank.Run(trained.run, device="cpu"), scenerank.Embeddings(file)
    ids, cosines = stored.nearest(run.embed(graphs[:2]), k=7)
    assert ids.shape == cosines.shape == (2, 7)
    assert ids[0].tolist() == [found["image_id"] for found in want]
    assert np.abs(cosines[0] - [found["cosine"] for found in want]).max() < 1e-5
    assert stored.model == run.id and len(stored) == len(np.asarray(stored))
    with pytest.raises(ValueError, match=r"queries: shape \[1, 3\]"):
        stored.nearest([[1.0, 2.0, 3.0]])


def test_a_sentence_is_a_graph(trained, program):
    run = scenerank.Run(trained.run)
    text = f"a purplish {run.objects[0]} {run.predicates[0]} the {run.objects[1]}"
    found = json.loads(program("search", trained.run, "--text", text, "--json", "--device", "cpu").stdout)
    understood = run.understand(text)
    assert (understood.graph, understood.not_understood) == (found["graph"], found["not_understood"])
    assert understood.not_understood == ["purplish"]
