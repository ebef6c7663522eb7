"""Configs that make no sense, given to the training program: `python -m tests.survival.fuzz COUNT`.

Each case is a fork of this process, which has imported everything: the program reads its flags,
opens tokenizer and data, builds the recipe, takes the workdir, and then traces the step without
compiling it. What it prints and its exit code are checked: 0 or 2, and never a traceback.
"""

import os
import random
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax

from configs.oner import get_config
from oner_jax import configuration
from oner_jax.command_line.program import EXIT_BAD_INPUT
from oner_jax.data import pipeline
from oner_jax.training.checkpointing import checkpoints
from oner_jax.training.recipe import Recipe

NUMBERS = ("-1", "0", "1", "2", "3", "7", "1000000007", "0.5", "1e-30", "1e30", "nan", "inf")
WORDS = ("", "x", "../..", "/", "é", "()", "('a',)", "(1", "[", "None", "True", "embedded:train")
# For what is not a number: what a value of its kind could be.
KINDS = ("momentum", "online", "softmax", "sigmoid", "float32", "bfloat16", "none", "cheap", "full")
# A case in so many is given a damaged dataset instead of an override.
DATA_SHARE = 10
# Of processor time for what does not end, and by the clock for what waits.
LIMIT_SECONDS, TIMEOUT_SECONDS = 120, 1200


def overrides(random_numbers: random.Random, keys: list[str]) -> list[str]:
    count = random_numbers.choice((1, 1, 1, 2, 3))
    values = (*NUMBERS, *WORDS, *KINDS)
    return [
        f"--config.{key}={random_numbers.choice(values)}"
        for key in random_numbers.sample(keys, count)
    ]


def damaged_data(random_numbers: random.Random, folder: Path) -> list[str]:
    """A copy of a small dataset with bytes of one file changed, cut off or removed."""
    source = Path(pipeline.__file__).parent / "embedded" / "val"
    copy = Path(shutil.copytree(source, folder / "data")) if source.is_dir() else folder
    victim = random_numbers.choice(sorted(copy.iterdir()))
    content = bytearray(victim.read_bytes())
    deed = random_numbers.choice(("change", "cut", "remove", "empty"))
    if deed == "remove":
        victim.unlink()
    elif deed == "empty":
        victim.write_bytes(b"")
    elif deed == "cut":
        victim.write_bytes(content[: random_numbers.randrange(len(content))])
    else:
        for _ in range(random_numbers.choice((1, 10, 100))):
            content[random_numbers.randrange(len(content))] = random_numbers.randrange(256)
        victim.write_bytes(content)
    return [f"--config.data.train={copy}"]


def run_in_fork(arguments: list[str], output: Path) -> int:
    """Exit code of the program, its output in a file; that of a signal beyond the limits."""
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
        signal.alarm(TIMEOUT_SECONDS)
        opened = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        code: object = 1
        try:
            _stop_before_compiling()
            sys.argv = ["train", *arguments]
            runpy.run_module("oner_jax.train", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _stop_before_compiling() -> None:
    """Trace the step where a run would open its checkpoints, and end well."""
    built: list[Recipe] = []
    original = Recipe.from_config.__func__  # type: ignore[attr-defined]

    def remember(cls: type[Recipe], *arguments: object, **named: object) -> Recipe:
        built.append(original(cls, *arguments, **named))
        return built[-1]

    def stop(*_: object, **__: object) -> None:
        recipe = built[-1]
        jax.eval_shape(recipe.step, recipe.abstract, recipe.abstract_batch())
        sys.exit(0)

    Recipe.from_config = classmethod(remember)  # type: ignore[assignment,method-assign]
    checkpoints.Checkpoints.__init__ = stop  # type: ignore[method-assign]


def cases(count: int, seed: int, folder: Path) -> Iterator[list[str]]:
    random_numbers = random.Random(seed)
    keys = [key for key, _ in configuration.flatten(get_config("tiny"))]
    for number in range(count):
        own = folder / str(number)
        own.mkdir()
        if number % DATA_SHARE == 0:
            changed = damaged_data(random_numbers, own)
        else:
            changed = overrides(random_numbers, keys)
        yield ["--config=configs/oner.py:tiny", f"--workdir={own}/run", "--platform=cpu", *changed]
        shutil.rmtree(own, ignore_errors=True)


def main(count: int, seed: int) -> int:
    """Run so many cases; how many of them ended otherwise than they should."""
    ends: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, arguments in enumerate(cases(count, seed, folder)):
            if number % 100 == 0:
                print(f"{number} of {count} cases", file=sys.stderr, flush=True)
            output = folder / "output"
            code = run_in_fork(arguments, output)
            said = output.read_text(errors="replace")
            ends[code] += 1
            if code not in (0, EXIT_BAD_INPUT) or "Traceback" in said:
                last = "\n".join(said.strip().splitlines()[-3:])
                print(f"exit {code}: {' '.join(arguments[3:])}\n{last}\n", flush=True)
                ends[-1000] += 1
    bad = ends.pop(-1000, 0)
    print(f"fuzz: {count} cases, seed {seed}: exit codes {dict(ends)}, {bad} bad")
    return bad


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
