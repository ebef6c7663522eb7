"""Whether a command continues the run that a workdir holds: the same config, on the same data.

Data and tokenizers are known by their content, wherever they lie. A run that is finished may go on
with more steps, and then with another schedule.
"""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from oner_jax import configuration
from oner_jax.errors import InputError
from oner_jax.training import schedule
from oner_jax.training.checkpointing.checkpoints import available_steps, read_config

# Keys that may differ when a run is continued: they change how it is computed, not what.
FREE_KEYS = (
    "accumulation_steps",
    "checkpoint.",
    "compilation_cache",
    "data.evaluation",
    "data.maximum_damaged_fraction",
    "data.threads",
    "evaluation.",
    "guards.maximum_",
    "guards.spike_z_score",
    "log_interval_steps",
    "mesh.",
    "model.layers_per_scan_step",
    "model.remat",
    "preflight",
    "sharding_rules",
    "watchdog.",
)
# Keys that name data, whose content is compared instead.
_NAMES = ("data.train", "data.image_only", "data.text_only", "data.tokenizer")
# Keys that may differ when a finished run goes on with more steps.
_SCHEDULE = (
    "total_steps",
    "total_epochs",
    "optimizer.learning_rate_per_256_examples",
    "optimizer.end_learning_rate",
    "optimizer.warmup_fraction",
    "momentum.",
)
_SHOWN_DIGITS = 12  # of a hash


def require_same_run(
    workdir: epath.Path, config: ConfigDict, data: Mapping[str, Any]
) -> tuple[list[str], ConfigDict | None]:
    """Return lines on what is other than it was, and the config before it where it was extended.

    Raises InputError, naming the keys that differ, where the workdir holds another run.
    """
    earlier = read_config(workdir)
    before = dict(configuration.flatten(earlier))
    # Through JSON, so that tuples and lists compare as they are stored.
    now = dict(configuration.flatten(configuration.from_json(configuration.to_json(config))))
    # A key that the run does not have came with a later revision.
    differing = sorted(
        key for key in before if before[key] != now.get(key) and not key.startswith(FREE_KEYS)
    )
    lines = []
    stored = _stored_data(workdir)
    # Of a run that has written no manifest yet, and of some of earlier revisions, content is not
    # known.
    moved = [key for key in differing if key in _NAMES and stored.get(key.removeprefix("data."))]
    changes = data_changes(stored, data) if moved else []
    if not changes:
        differing = [key for key in differing if key not in moved]
        lines += [f"{key} has moved: {before[key]} -> {now[key]}, same content" for key in moved]
    extended = (
        "total_steps" in differing
        and all(key.startswith(_SCHEDULE) for key in differing)
        and earlier.total_steps < config.total_steps
    )
    if extended and earlier.total_steps in available_steps(workdir):
        return [*lines, _extension(earlier, config)], earlier
    if differing:
        keys = [key for key in differing if not changes or key not in moved]
        shown = "; ".join([f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys] + changes)
        hint = ""
        if extended:
            hint = f" (once it has its {earlier.total_steps:,} steps, it can go on with more)"
        raise InputError(
            f"{workdir} holds a run of another config ({shown}): "
            f"choose another --workdir, or give the same config to continue{hint}"
        )
    return lines, None


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return `data.train: NAME (N records, HASH) -> ...` for each key whose content differs.

    `before` and `now` are descriptions of a run's data (`describe`). Names of splits do not count,
    their order does: an example is known by its place.
    """
    lines = []
    for key in sorted((before.keys() | now.keys()) - {"records"}):
        old, new = before.get(key), now.get(key)
        if key == "tokenizer" and old is None:
            continue  # not known of runs of earlier revisions
        if _content(old) != _content(new):
            lines.append(f"data.{key}: {_shown(old)} -> {_shown(new)}")
    return lines


def _content(part: Any) -> Any:
    return list(part.values()) if isinstance(part, Mapping) else part


def _shown(part: Any) -> str:
    if part is None:
        return "none"
    if not isinstance(part, Mapping):
        return str(part)[:_SHOWN_DIGITS]
    return ", ".join(
        f"{name} ({split['records']:,} records, {split['hash'][:_SHOWN_DIGITS]}"
        + (f", weight {split['weight']})" if "weight" in split else ")")
        for name, split in part.items()
    )


def _stored_data(workdir: epath.Path) -> dict[str, Any]:
    try:
        return json.loads((workdir / "manifest.json").read_text())["data"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}


def _extension(before: ConfigDict, now: ConfigDict) -> str:
    """Say what more steps do to the schedule."""
    step = before.total_steps
    rates = [float(schedule.learning_rate_of(config)(step)) for config in (before, now)]
    return (
        f"total_steps  {step:,} -> {now.total_steps:,}: the schedules are now those of "
        f"{now.total_steps:,} steps, and the learning rate at step {step:,} goes from "
        f"{rates[0]:.3g} to {rates[1]:.3g}. A run of {now.total_steps:,} steps from the beginning "
        "would end elsewhere"
    )
