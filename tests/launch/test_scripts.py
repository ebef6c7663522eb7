"""The launchers in bash under shellcheck; the image's file names files that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("launch/**/*.sh"), *ROOT.glob("launch/**/*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run(
        [shellcheck, "--external-sources", script], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_the_image_has_requirements_for_each_accelerator():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    (named,) = re.findall(r"ACCELERATOR is (.*)\. CUDA", text)
    for accelerator in re.findall(r"\w+", named.replace(" or ", ", ")):
        # For the CPU nothing is needed beyond requirements.txt; the file makes an empty one.
        made = f"touch requirements-{accelerator}.txt" in text
        assert made or (ROOT / f"requirements-{accelerator}.txt").exists(), accelerator
