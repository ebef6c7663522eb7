"""Retrieval in the space in which a run was trained, beside the space that is embedded.

    python docs/benchmarks/through_the_predictor.py WORKDIR...

ITC holds predictions p(g(x)) of one modality against projections g(y) of the other; what is
embedded is g on both sides. For every run: R@10 both ways on the first of its evaluation datasets.
"""

import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from oner_jax.data.evaluation import evaluation_set
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.evals.inputs.features import Corpus
from oner_jax.evals.tasks.retrieval import retrieval
from oner_jax.models.embedding import Embedder
from oner_jax.models.heads import unit
from oner_jax.training.checkpointing.checkpoints import load_run


def recalls(workdir):
    """Text and image R@10, embedded and through the predictor."""
    run = load_run(workdir)
    dataset = next(iter(run.config.data.evaluation.values()))
    examples = evaluation_set(dataset, image_size=run.config.model.image_size)
    corpus = Corpus.of(examples)
    embedder = Embedder(run.model, run.parameters)
    tokenizer = Tokenizer.load(run.config.data.tokenizer)
    ids = tokenizer.encode(corpus.gallery.texts, max_tokens=run.config.model.text_tokens)
    states = {
        "I": np.concatenate([embedder(images=x).backbone for x in examples.image_batches(256)]),
        "T": embedder(text=ids).backbone,
    }
    bound = run.model.bind(run.parameters)
    projected = {view: bound.backbone.project(states[view], view) for view in states}
    keys = {view: np.asarray(unit(vectors)) for view, vectors in projected.items()}
    queries = {view: np.asarray(unit(bound.predict(x))) for view, x in projected.items()}
    pictures = corpus.distinct_pictures
    keys["I"], queries["I"] = keys["I"][pictures], queries["I"][pictures]
    matches = corpus.gallery.matches.take(pictures)
    embedded = retrieval(keys["I"], keys["T"], matches)
    return {
        "text": embedded["text_R@10"].value,
        "image": embedded["image_R@10"].value,
        "text, predicted": retrieval(queries["I"], keys["T"], matches)["text_R@10"].value,
        "image, predicted": retrieval(keys["I"], queries["T"], matches)["image_R@10"].value,
    }


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    for workdir in sys.argv[1:]:
        found = recalls(workdir)
        print(workdir, *(f"{name} {100 * value:.1f}" for name, value in found.items()), sep="  ")
