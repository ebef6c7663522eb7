"""Recipes and sweeps of users' own: what fails in them is named, and what they import is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.sweep import load_sweep
from oner_jax.command_line.recipe_files import RecipeParser
from oner_jax.errors import InputError

ROOT = Path(__file__).parents[2]
TINY = """from configs import oner
def get_config(argument='tiny'):
    config = oner.get_config('tiny')
"""


def parse(path: Path, argument: str = ""):
    return RecipeParser("config").parse(f"{path}{argument}")


def written(folder: Path, text: str) -> Path:
    (folder / "own.py").write_text(text)
    return folder / "own.py"


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("import nothing_like_this\n", 1, "ModuleNotFoundError: No module named 'nothing_like"),
        ("def get_config(:\n", 1, "SyntaxError"),
        (TINY + "    return config[{}['size']]\n", 4, "KeyError: 'size'"),
        (TINY + "    return 1 // 0\n", 4, "ZeroDivisionError"),
        (TINY + "    open('/not/there')\n", 4, "FileNotFoundError"),
        (TINY + "    config.lock()\n    config.nmae = 1\n", 5, "AttributeError"),
    ],
)
def test_what_a_recipe_raises_is_named_with_file_and_line(tmp_path, text, line, named):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as failure:
        parse(path)
    assert str(failure.value).startswith(f"{path}, line {line}: {named}")
    assert "\n" not in str(failure.value)


def test_what_a_sweep_raises_is_named_likewise(tmp_path):
    path = written(tmp_path, "def get_sweep():\n    return nothing_like_this\n")
    with pytest.raises(InputError, match=r"own.py, line 2: NameError: name 'nothing_like_this'"):
        load_sweep(str(path))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x = 1\n", r"has no get_config\(argument\)"),
        ("def get_config():\n    return {}\n", "get_config returned dict, not a ConfigDict"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, text, named):
    with pytest.raises(InputError, match=named):
        parse(written(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--config=.*none.py:tiny: there is no file .*none.py"):
        parse(tmp_path / "none.py", ":tiny")


def test_names_of_evaluation_sets_are_added_on_the_command_line(tmp_path, monkeypatch):
    path = written(tmp_path, TINY + "    return config\n")
    arguments = [f"--config.data.evaluation.mine={tmp_path}", "--config.data.evaluation.val=there"]
    monkeypatch.setattr(sys, "argv", ["train", f"--config={path}", *arguments])
    assert dict(parse(path).data.evaluation) == {
        "val": "embedded:val",
        "new_vendor": "embedded:new_vendor",
        "mine": "",
    }


PRINT = """
from absl import flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.recipe_files import define_recipe
CONFIG = define_recipe("config", "a recipe")
def main(_):
    print(CONFIG.value.data.evaluation.to_dict(), CONFIG.value.batch_size)
run_program(main)
"""


@pytest.mark.parametrize("spelling", ["--config={}", "--config {}"])
def test_from_another_folder_with_overrides(tmp_path, spelling):
    """As a user types it; `configs/finetune.py` imports `configs.oner`."""
    recipe = spelling.format(f"{ROOT}/configs/finetune.py:tiny,source=x").split(" ")
    overrides = ["--config.data.evaluation.mine=DIR", "--config.batch_size=8"]
    result = subprocess.run(
        [sys.executable, "-c", PRINT, *recipe, *overrides],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert "'mine': 'DIR'" in result.stdout
    assert result.stdout.endswith(" 8\n")
