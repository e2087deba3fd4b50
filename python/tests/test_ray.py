"""The recipe for Ray Data writes the rows that the command `embed` writes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")


def test_workers_embed_the_same_rows(program, trained, tmp_path):
    import pyarrow.parquet

    import scenerank

    run = scenerank.Run(trained.run)
    objects, predicates = run.objects, run.predicates
    records = [
        {
            "image_id": 5000 + number,
            "objects": [objects[number % 9], objects[(number + 4) % 9], objects[number % 9], "an unknown thing"],
            "relationships": [[0, predicates[number % 3], 1], [2, predicates[0], 0], [0, "unknown to", 1], [3, predicates[0], 1]],
        }
        for number in range(150)
    ]
    records.append({"image_id": 1, "objects": ["an unknown thing"]})
    lines, out, rows = tmp_path / "graphs.jsonl", tmp_path / "want.npy", tmp_path / "rows"
    lines.write_text("\n".join(map(json.dumps, records)))
    program("embed", trained.run, "--graphs", lines, "--out", out, "--device", "cpu")
    script = Path(__file__).parent.parent / "examples" / "ray_embed.py"
    command = [sys.executable, script, trained.run, lines, rows, "--batch", "40"]
    assert "150 images" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    table = pyarrow.parquet.read_table(rows).sort_by("image_id")
    assert table.column("image_id").to_pylist() == [record["image_id"] for record in records[:-1]]
    got = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(150, -1)
    # Batches of other sizes: sums of products have the same order, so the rows have the same bits.
    assert np.array_equal(got, np.load(out))
