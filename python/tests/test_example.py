"""The documented script runs."""

import subprocess
import sys
from pathlib import Path


def test_the_script_embeds_and_searches(trained):
    script = Path(__file__).parent.parent / "examples" / "embed_and_search.py"
    output = subprocess.run([sys.executable, script, trained.run], check=True, capture_output=True, text=True).stdout
    assert output.count("image ") >= 30, output
