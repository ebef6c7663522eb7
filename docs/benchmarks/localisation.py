"""Localisation by grid, read-out and ground: which way to read a model, and how fine.

    python docs/benchmarks/localisation.py --grids=8,12,16 --datasets=embedded:val

On the scenes of `oner_jax.evaluate`. For every grid (patches a side), ground and read-out, in %:
the pointing game and which object, each followed by the same for a phrase that the scene does not
show, on the scenes that are scored; and the score on the development scenes, by which evaluation
chooses. Then the controls that need no model. `--model` is a run or an export (default: the one
that comes with the package).
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[2]))

from oner_jax.api import RELEASED
from oner_jax.data.evaluation import evaluation_set
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.evals.inputs.readouts import Phrases
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.tasks.localisation import development_score, pointing
from oner_jax.evals.tasks.localisation_task import MODEL_FREE, ask
from oner_jax.models.embedding import Embedder
from oner_jax.training.checkpointing.checkpoints import load_run

MODEL = flags.DEFINE_string("model", str(RELEASED), "A run or an export.")
DATASETS = flags.DEFINE_list("datasets", ["embedded:val", "embedded:new_vendor"], "Splits.")
GRIDS = flags.DEFINE_list("grids", ["4", "8", "12", "16"], "Patches a side.")

SHOWN = ("pointing", "pointing_other_phrase", "which_object", "which_object_other_phrase")


def material(run, embedder, split, patches_per_side):
    """The scenes of a split for a model, on one grid."""
    tokenizer = Tokenizer.load(run.config.data.tokenizer)
    return Material(
        load_examples=lambda: evaluation_set(split, image_size=embedder.image_size),
        load_boxed=None,
        load_training=None,
        load_model=lambda: embedder,
        load_momentum=None,
        tokenize=lambda texts: tokenizer.encode(texts, run.config.model.text_tokens),
        cut=lambda texts: tokenizer.cut(texts, run.config.model.text_tokens),
        templates="names",
        announce=lambda text: lambda done, total: None,
        patches_per_side=patches_per_side,
    )


def percent(measurement):
    """With half of its 95 % interval."""
    low, high = measurement.interval
    return f"{100 * measurement.value:.1f} ± {50 * (high - low):.1f}"


def main(_):
    """Print one table a dataset."""
    run = load_run(MODEL.value)
    embedder = Embedder(run.model, run.parameters)
    for split in DATASETS.value:
        print(f"\n{split}\n\n| grid | ground | read-out | {' | '.join(SHOWN)} | development |")
        print("|---" * (4 + len(SHOWN)) + "|")
        for grid in map(int, GRIDS.value):
            scenes = material(run, embedder, split, grid)
            for ground, boxed in scenes.grounds.items():
                phrases = Phrases(embedder, scenes.ids(boxed.phrases))
                for name, maps in ask(embedder, phrases, boxed, grid).items():
                    found = pointing(*maps, boxed.boxes, boxed.pictures)
                    chosen_by = 100 * development_score(maps.own, boxed.boxes, boxed.pictures)
                    cells = [f"{grid}", ground, name, *(percent(found[each]) for each in SHOWN)]
                    print(f"| {' | '.join(cells)} | {chosen_by:.1f} |", flush=True)
        free = ", ".join(f"{each} {percent(found[each])}" for each in MODEL_FREE if each in found)
        chance = ", ".join(f"{each} {100 * found[each].chance:.1f}" for each in SHOWN[::2])
        print(f"\nControls: {free}. Chance: {chance}. {len(np.unique(boxed.pictures))} scenes.")


if __name__ == "__main__":
    app.run(main)
