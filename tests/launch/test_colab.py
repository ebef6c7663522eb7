"""The notebook for Colab, with this machine in the place of a TPU."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_notebooks_programs_run_one_after_the_other(tmp_path):
    notebook = json.loads((ROOT / "launch" / "colab" / "train_on_tpu.ipynb").read_text())
    assert notebook["nbformat"] == 4
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lines = re.findall(r"^!python (.*)$", "\n".join(sources), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        words = line.format(WORKDIR=tmp_path / "run", PLATFORM="cpu").split()
        result = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "report" / "index.html").is_file()
