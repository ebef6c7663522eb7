"""An evaluator beside a run that is still training: every checkpoint, as it is saved."""

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Sequence

from etils import epath

from oner_jax.errors import InputError
from oner_jax.evals.engine.evaluation import Request
from oner_jax.parallel import distributed
from oner_jax.training.checkpointing.checkpoints import available_steps, read_config

POLL_SECONDS = 10.0

_looks = itertools.count()


def follow(
    request: Request,
    evaluate: Callable[[Request], object],
    *,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Evaluate all checkpoints of the request's runs whenever there are new ones.

    Ends when every run has saved its last step. A run may delete old checkpoints meanwhile: what is
    gone before it was evaluated is said and left out. Of several processes the first one looks.
    """
    seen: list[list[int]] = []
    while True:
        steps, finished = _state(request.folders)
        if steps != seen and any(steps):
            seen = steps
            try:
                evaluate(dataclasses.replace(request, steps=("all",)))
            except InputError as error:
                if _state(request.folders)[0] == steps:
                    raise  # nothing has changed on disk: the request itself is wrong
                if distributed.is_main():
                    print(f"a checkpoint went away: {error}", file=sys.stderr, flush=True)
                seen = []
            continue
        if finished:
            return
        time.sleep(poll_seconds)


def _state(workdirs: Sequence[epath.Path]) -> tuple[list[list[int]], bool]:
    """The checkpoints that each run has, and whether all runs have their last one."""
    steps, finished = distributed.from_main(
        f"state of runs {next(_looks)}", lambda: _look(workdirs)
    )
    return steps, finished


def _look(workdirs: Sequence[epath.Path]) -> tuple[list[list[int]], bool]:
    steps, finished = [], []
    for workdir in workdirs:
        own: list[int] = []
        try:
            own, last = available_steps(workdir), read_config(workdir).total_steps
        except InputError:  # the run has not started yet
            last = None
        steps.append(own)
        finished.append(bool(own) and own[-1] == last)
    return steps, all(finished)
