"""What is exported: one set of weights of a run, or the average of several."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.models.embedding import Embedder
from oner_jax.models.files import is_export, read_description
from oner_jax.models.pretraining import Parameters, PureModel
from oner_jax.models.settings import ModelSettings
from oner_jax.training.checkpointing.checkpoints import load_run

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to be exported, and where it comes from.

    `parameters` are float32, as trained. `dtype` is what the export stores and computes in, and
    `settings` are the model's with that. `weights` is "online" or "momentum"; of several `steps`
    the weights are averaged.
    """

    workdir: epath.Path
    config: ConfigDict
    settings: ModelSettings
    parameters: Parameters
    tokenizer: Tokenizer
    weights: str
    steps: tuple[int, ...]
    dtype: str

    @functools.cached_property
    def model(self) -> PureModel:
        """As the export computes; on any accelerator, so without a fused kernel of one."""
        return PureModel(self.settings)

    @property
    def views(self) -> list[str]:
        """Those of I, T and IT that the architecture has, in this order."""
        return [view for view in ("I", "T", "IT") if view in self.model.views]

    @functools.cached_property
    def embedder(self) -> Embedder:
        """The model as the export computes; `of` other weights it is not compiled again."""
        return Embedder(self.model, self.parameters, batch_size=8)

    @functools.cached_property
    def reference(self) -> Embedder:
        """The training model in float32, which an export is compared with."""
        if self.settings.dtype == "float32":
            return self.embedder
        settings = dataclasses.replace(self.settings, dtype="float32")
        return Embedder(PureModel(settings), self.parameters, batch_size=8)


def open_source(
    workdir: epath.PathLike,
    *,
    step: str = "last",
    weights: str = "online",
    average: Sequence[int] = (),
    dtype: str = DTYPES[0],
) -> Source:
    """The weights of one checkpoint, or the average of those at the steps in `average`.

    Averages over steps of one run that are near its end often generalise better than the last one
    (Izmailov et al. 2018; Wortsman et al. 2022, "Model soups"). Raises InputError where there is no
    such run or checkpoint.
    """
    if dtype not in DTYPES:
        raise InputError(f"--dtype={dtype}: types are {', '.join(DTYPES)}")
    if len(set(average)) == 1 or len(set(average)) < len(average):
        raise InputError(
            f"--average={','.join(map(str, average))}: give different steps, at least two"
        )
    chosen: list[str | int] = [*average] or [step]
    runs = [load_run(workdir, number, weights) for number in chosen]
    parameters = runs[0].parameters
    if average:
        parameters = jax.tree.map(_mean, *[run.parameters for run in runs])
    config = runs[0].config.copy_and_resolve_references()
    steps = tuple(run.step for run in runs)
    if is_export(workdir):
        before = read_description(workdir)["weights"]
        weights, steps = before["kind"], tuple(before["steps"])
        with config.unlocked():
            del config.exported
    settings = dataclasses.replace(
        ModelSettings.from_config(config.model), dtype=dtype, attention="xla", remat="none"
    )
    return Source(
        workdir=epath.Path(workdir),
        config=config,
        settings=settings,
        parameters=jax.tree.map(np.asarray, parameters),
        tokenizer=Tokenizer.load(config.data.tokenizer),
        weights=weights,
        steps=steps,
        dtype=dtype,
    )


def _mean(*arrays: Any) -> np.ndarray:
    """Summed in float64, so that the order does not matter."""
    return np.mean([np.asarray(array, np.float64) for array in arrays], axis=0).astype(np.float32)
