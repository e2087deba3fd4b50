"""The network in PyTorch: the same numbers as the command `embed`, also where the compiled part is absent."""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from scenerank.torch import SceneGraphEmbedder  # noqa: E402


def test_rows_are_those_of_the_command(trained, graphs, written):
    embedder = SceneGraphEmbedder.from_run(trained.run)
    rows = embedder.embed(graphs)
    assert np.abs(rows.numpy() - written.rows).max() < 1e-5
    # Not by chance: the graphs are different, and so are their rows.
    assert np.abs(written.rows[0] - written.rows[1]).max() > 1e-2
    with pytest.raises(ValueError, match='graph 0: the run has no object "yeti"'):
        embedder.embed([[["yeti"]]])


@pytest.mark.parametrize("switch", ["batch_norm", "l2_norm", "image_node_in_mean"])
def test_switches_are_those_of_the_run(trained, graphs, program, tmp_path, written, switch):
    import scenerank

    run, out = tmp_path / "run", tmp_path / "rows.npy"
    scenerank.train(trained.data, run, epochs=1, device="cpu", **trained.network, **{switch: False})
    program("embed", run, "--graphs", written.file, "--out", out, "--device", "cpu")
    rows = SceneGraphEmbedder.from_run(run).embed(graphs).numpy()
    assert np.abs(rows - np.load(out)).max() < 1e-5


def test_it_trains_as_any_module(trained, graphs):
    embedder = SceneGraphEmbedder.from_run(trained.run).train()
    batch = embedder.batch(graphs[:12])
    optimizer = torch.optim.Adam(embedder.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        anchor, positive, negative = embedder(batch).split(4)
        margin = (anchor * positive).sum(1) - (anchor * negative).sum(1)
        loss = -torch.nn.functional.logsigmoid(margin).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert embedder.training and embedder.embed(graphs[:1]).shape == (1, 16) and embedder.training


def test_it_needs_no_compiled_part(trained, graphs, written, tmp_path):
    script = f"""
import sys
sys.modules["scenerank._scenerank"] = None
import numpy, scenerank, scenerank.torch
rows = scenerank.torch.SceneGraphEmbedder.from_run({str(trained.run)!r}).embed({graphs!r}).numpy()
assert numpy.abs(rows - numpy.load({str(written.out)!r})).max() < 1e-5
try:
    scenerank.Run({str(trained.run)!r})
except ImportError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError("it has a compiled part")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
