"""Before a launcher spends anything: does the recipe fit, and are its data there?

    python -m launch.preflight --topology=v5e:8x8 -- \\
        python -m oner_jax.train --config=configs/oner.py:b16 --workdir=DIR

Runs `oner_jax.plan` and `oner_jax.check` with the recipe and the overrides of the command,
which it does not start. Ends with 2 where one of them says no, saying how to start all the same.
`--checks` chooses: `plan` needs no data and `data` no accelerator, so that a launcher can do the
first here and the second where the data are. A command that does not train passes.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

from oner_jax.command_line import streams
from oner_jax.command_line.program import EXIT_BAD_INPUT

CHECKS = ("plan", "data")
TRAINING = "oner_jax.train"

# As many records, and seconds of the input at work, as show what is wrong in under a minute.
_DATA_SAMPLE = ("--sample=256", "--seconds=5")


def recipe_arguments(command: Sequence[str]) -> list[str] | None:
    """`--config` and its overrides in a command that trains, as written; None in any other."""
    if TRAINING not in command:
        return None
    found: list[str] = []
    for argument, following in zip(command, [*command[1:], "-"], strict=True):
        name, equals, _ = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not re.fullmatch(r"config|(no)?config\..+", name):
            continue
        # `--config.KEY VALUE` is one override in two words, `--config.KEY` alone a switch.
        two_words = not equals and not following.startswith("-")
        found.append(f"{argument}={following}" if two_words else argument)
    return found


def checks_of(
    command: Sequence[str], topology: str, num_slices: int, wanted: Sequence[str]
) -> list[list[str]]:
    """The commands that check a training command; none for any other."""
    recipe = recipe_arguments(command)
    if recipe is None:
        return []
    place = [f"--topology={topology}"] if topology else []
    slices = [f"--num_slices={num_slices}"] if num_slices > 1 else []
    programs = {
        # The least effort: it compiles in half the time and finds the same memory.
        "plan": ["oner_jax.plan", *recipe, *place, *slices, "--effort=-1", "--require_fit"],
        "data": ["oner_jax.check", *recipe, *place, *_DATA_SAMPLE],
    }
    return [[sys.executable, "-m", *programs[name]] for name in wanted]


def _checks(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(CHECKS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: checks are {', '.join(CHECKS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="", help="where to train, as v5e:8x8 or h100:16")
    parser.add_argument("--num_slices", type=int, default=1, help="TPU slices of that shape")
    parser.add_argument("--checks", type=_checks, default=list(CHECKS), help="plan, data or both")
    parser.add_argument("--dry-run", action="store_true", help="print the checks and run none")
    parser.add_argument("command", nargs="+", help="after --: the training command")
    options = parser.parse_args()
    if "plan" in options.checks and not options.topology:
        parser.error("--topology is missing: for example v5e:8x8, or h100:16")
    for check in checks_of(options.command, options.topology, options.num_slices, options.checks):
        if options.dry_run:
            print(shlex.join(check), flush=True)
            continue
        print(f"+ {shlex.join(check)}", file=sys.stderr, flush=True)
        code = subprocess.run(check, stdout=sys.stderr).returncode
        if code:
            name = "plan" if "oner_jax.plan" in check else "data"
            print(
                f"error: not started, because this check ended with exit code {code}; "
                f"--skip_checks={name} starts all the same",
                file=sys.stderr,
            )
            return EXIT_BAD_INPUT
    return 0


if __name__ == "__main__":
    with streams.steadfast():
        sys.exit(main())
