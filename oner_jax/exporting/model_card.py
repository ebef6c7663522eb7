"""The model card: what the model is, how well it does, how to use it, and its exact format."""

import json
import shlex
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from oner_jax.evals.engine.suite import Cell
from oner_jax.evals.engine.table import text_table
from oner_jax.evals.tasks.catalogue import TASKS
from oner_jax.exporting.source import Source
from oner_jax.models.files import named_arrays

_TEMPLATE = Path(__file__).with_name("model_card.md")
_NO_RESULTS = (
    "Not evaluated yet: `python -m oner_jax.evaluate` fills this table for the next export."
)


def model_card(
    source: Source, formats: Sequence[str], parity: Mapping[str, Mapping[str, float]]
) -> str:
    """Markdown, with the front matter that the Hugging Face Hub reads."""
    settings = source.settings
    named = named_arrays(source.parameters)
    steps = ", ".join(map(str, source.steps))
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        architecture=settings.architecture,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        head_width=settings.width // settings.heads,
        mlp_width=settings.mlp_width,
        patch_size=settings.patch_size,
        stem=settings.stem,
        image_size=settings.image_size,
        text_tokens=settings.text_tokens,
        features=settings.projection_width,
        patches=settings.patches,
        vocabulary=settings.vocabulary_size,
        parameters=f"{sum(array.size for array in named.values()):,}",
        weights=f"{source.weights}, "
        + ("mean of steps " if len(source.steps) > 1 else "step ")
        + steps,
        dtype=source.dtype,
        origin=_origin(source.workdir),
        trained_on=source.config.data.train,
        total_steps=source.config.total_steps,
        batch_size=source.config.batch_size,
        results=_results(source),
        formats="\n".join(f"| {name} | {_listed(parity[name])} |" for name in formats),
        arrays="\n".join(
            f"| `{name}` | {' x '.join(map(str, array.shape)) or 'scalar'} |"
            for name, array in named.items()
        ),
    )


def _listed(differences: Mapping[str, float]) -> str:
    return ", ".join(f"{view} {value:.1e}" for view, value in differences.items())


def _origin(workdir: epath.Path) -> str:
    """A row with the command that trained it, of a run whose manifest has it; not with where."""
    try:
        manifest = json.loads((workdir / "manifest.json").read_text())
    except FileNotFoundError:
        return ""
    if "command" not in manifest:
        return ""
    command = shlex.join(
        "--workdir=DIR" if argument.startswith("--workdir=") else argument
        for argument in shlex.split(manifest["command"])
    )
    return f"| trained by | `{command}` (revision {manifest['revision']}) |\n"


def _results(source: Source) -> str:
    """The table of evaluation, as far as it was made: of one checkpoint, beside the untrained."""
    if len(source.steps) > 1:
        return "An average of checkpoints: evaluate the export itself for its numbers."
    label = f"step {source.steps[0]}"
    folders = {label: f"step-{source.steps[0]}", "untrained": "untrained"}
    columns = {
        column: cells
        for column, name in folders.items()
        if (cells := _cells(source.workdir / "eval" / name))
    }
    if label not in columns:
        return _NO_RESULTS
    own = "momentum" if source.weights == "momentum" else label
    return f"```\n{text_table(columns)}\n```\n\nThis folder's weights are those of `{own}`."


def _cells(folder: epath.Path) -> dict[str, dict[str, Cell]]:
    """Finished results by dataset and task."""
    cells: dict[str, dict[str, Cell]] = {}
    for path in sorted(folder.glob("*/*.json")):
        if path.stem in TASKS:
            content = json.loads(path.read_text())
            cells.setdefault(path.parent.name, {})[path.stem] = Cell(
                path.stem, path.parent.name, content
            )
    return cells
