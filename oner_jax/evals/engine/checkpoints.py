"""Which checkpoints are evaluated, what tables call them, and where their cells are kept."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.evals.engine.suite import Subject, slug
from oner_jax.evals.engine.table import BESIDE
from oner_jax.evals.inputs.features import EmbedsViews
from oner_jax.models.embedding import Embedder
from oner_jax.training.checkpointing.checkpoints import (
    available_steps,
    has_twin,
    load_run,
    read_config,
    resolve_step,
)

UNTRAINED = "untrained"
INIT = "init"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run at one step, or at "init" as it started. `run` is what tables call the run.

    One that is not `there` any more was evaluated before it was deleted.
    """

    workdir: epath.Path
    step: int | str
    run: str
    there: bool = True

    @property
    def number(self) -> int:
        """The step; 0 at the beginning."""
        return 0 if self.step == INIT else int(self.step)

    @property
    def folder(self) -> str:
        """The name of the folder of its cells."""
        return UNTRAINED if self.step == INIT else f"step-{self.step}"

    def subject(self, label: str, cells: epath.Path) -> Subject:
        """What is evaluated under this label; its cells are in a folder of `cells`."""
        config = read_config(self.workdir)
        tokenizer = Tokenizer.load(config.data.tokenizer)
        identity = f"{self.step} {tokenizer.content_hash} {config.to_json(sort_keys=True)}"

        def embedder(weights: str) -> Callable[[], EmbedsViews]:
            def load() -> Embedder:
                run = load_run(self.workdir, self.step, weights)
                return Embedder(run.model, run.parameters)

            return load

        return Subject(
            label=label,
            directory=cells / self.folder,
            identity=hashlib.sha256(identity.encode()).hexdigest(),
            load=embedder("online"),
            tokenize=functools.partial(tokenizer.encode, max_tokens=config.model.text_tokens),
            cut=functools.partial(tokenizer.cut, max_tokens=config.model.text_tokens),
            load_momentum=embedder("momentum") if self.step != INIT and has_twin(config) else None,
            there=self.there,
        )

    @property
    def image_size(self) -> int:
        """Of the pictures that the model sees, in pixels."""
        return read_config(self.workdir).model.image_size


def checkpoints_of(
    workdirs: Sequence[epath.Path],
    steps: Sequence[str],
    names: Mapping[epath.Path, str],
    out: epath.Path | None = None,
) -> list[Checkpoint]:
    """The checkpoints of every run: numbers, "best" (by the run's own metric), "last", or "all".

    `names` are what tables call the runs.

    All are those that there are, and those that were evaluated and then deleted. Ascending in each
    run. Raises InputError for a folder without a run and for a step that is not there, naming those
    that are.
    """
    found = []
    for workdir in workdirs:
        name = names[workdir]
        read_config(workdir)
        there = set(available_steps(workdir))
        chosen: dict[int, bool] = {}
        for step in steps:
            if step == INIT:
                raise InputError(
                    "--steps=init: the untrained model is always shown; give a checkpoint"
                )
            if step != "all":
                chosen[resolve_step(workdir, step)] = True
                continue
            evaluated = _evaluated_steps(cells_folder(out, workdir, name))
            chosen |= {number: number in there for number in there | evaluated}
            if not chosen:
                resolve_step(workdir, "last")  # says what is missing
        found += [
            Checkpoint(workdir, number, name, is_there)
            for number, is_there in sorted(chosen.items())
        ]
    return found


def cells_folder(out: epath.Path | None, workdir: epath.Path, run: str) -> epath.Path:
    """Where the cells of a run are kept: beside it, or in the folder for everything."""
    return workdir / "eval" if out is None else out / "eval" / slug(run)


def _evaluated_steps(cells: epath.Path) -> set[int]:
    numbers = (path.name.removeprefix("step-") for path in cells.glob("step-*"))
    return {int(number) for number in numbers if number.isdigit()}


def compared_steps(entries: Sequence[str], workdir: epath.Path) -> list[tuple[epath.Path, str]]:
    """What `--compare` names, as folders and steps: FOLDER (its last one, a step of ""),
    FOLDER@STEP, or @STEP of `workdir`."""
    parts = [entry.rpartition("@") if "@" in entry else (entry, "", "") for entry in entries]
    return [(epath.Path(folder) if folder else workdir, step) for folder, _, step in parts]


def compared_checkpoints(
    compared: Sequence[tuple[epath.Path, str]], names: Mapping[epath.Path, str]
) -> dict[str, Checkpoint]:
    """The checkpoints that `compared_steps` gives, by what tables call them: the run, and the step
    where one was named. Raises InputError as `checkpoints_of` does, and for more than one step."""
    found = {}
    for folder, step in compared:
        if step == "all":
            raise InputError(f"--compare={folder}@all: name one checkpoint, or give --workdir both")
        (checkpoint,) = checkpoints_of([folder], [step or "last"], names)
        label = f"{checkpoint.run} {checkpoint.step}" if step else checkpoint.run
        found[label] = checkpoint
    return found


def run_names(folders: Sequence[epath.Path]) -> dict[epath.Path, str]:
    """The last part of each path; the whole path where that is not unique or names a column."""
    distinct = list(dict.fromkeys(folders))
    last = [folder.resolve().name for folder in distinct]
    names = {}
    for name, folder in zip(last, distinct, strict=True):
        if name in (UNTRAINED, *BESIDE):
            name = f"{folder.resolve().parent.name}/{name}"
        names[folder] = name if last.count(name) <= 1 else str(folder).strip("/")
    return names
