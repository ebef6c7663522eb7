"""What a classifier can be fitted on: a training split whose classes the dataset shares."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int64

from oner_jax.data.tokenizer import normalised_caption
from oner_jax.evals.inputs.features import Examples

FEWEST_TRAINING_PICTURES = 10  # of a class
FEWEST_PICTURES = 30  # to be scored
MOST_OF_A_GROUP = 100  # training pictures: groups are few and large, and no benchmark
VALIDATION_FRACTION = 0.2

_GROUP = "group"


@dataclasses.dataclass(frozen=True)
class SharedClasses:
    """Classes that a training split and a dataset share, numbered in the order of `names`.

    `kind` is what they are: the pictures' label, or the metadata field `group`. `train` and `test`
    are numbers of pictures, `train_classes` and `test_classes` the classes of these.
    """

    kind: str
    names: list[str]
    train: Int64[np.ndarray, "train"]
    train_classes: Int64[np.ndarray, "train"]
    test: Int64[np.ndarray, "test"]
    test_classes: Int64[np.ndarray, "test"]

    @property
    def validation(self) -> Bool[np.ndarray, "train"]:
        """A fifth of the training pictures of every class, at least one, by a fixed seed."""
        order = np.random.default_rng(0).permutation(len(self.train))
        by_class = order[np.argsort(self.train_classes[order], kind="stable")]
        sizes = np.bincount(self.train_classes, minlength=len(self.names))
        held_out = np.maximum(1, np.floor(VALIDATION_FRACTION * sizes))
        chosen = np.zeros(len(self.train), bool)
        chosen[by_class] = _places(sizes) < held_out[self.train_classes[by_class]]
        return chosen


def shared_classes(training: Examples, tested: Examples) -> SharedClasses | None:
    """The classes by label, or else by group; None where there are too few pictures of either.

    A class needs 10 training pictures and one to be scored on. There have to be two classes and 30
    pictures to score, and these at least half of those that have a label (or group). Labels that
    are equal as captions are one class. Of a label all training pictures are taken, of a group at
    most 100, by a fixed seed.
    """
    for kind in ("label", _GROUP):
        train, test = (_values(examples, kind) for examples in (training, tested))
        counts: dict[str, int] = {}
        for value in train:
            counts[value] = counts.get(value, 0) + 1
        names = sorted(
            value
            for value in set(test)
            if value and counts.get(value, 0) >= FEWEST_TRAINING_PICTURES
        )
        number = {name: index for index, name in enumerate(names)}
        rows = [
            np.array([index for index, value in enumerate(values) if value in number], np.int64)
            for values in (train, test)
        ]
        enough = max(FEWEST_PICTURES, sum(map(bool, test)) / 2)
        if len(names) >= 2 and len(rows[1]) >= enough:
            classes = [
                np.array([number[values[row]] for row in own], np.int64)
                for values, own in zip((train, test), rows, strict=True)
            ]
            if kind == _GROUP:
                kept = _at_most_of_each(classes[0], MOST_OF_A_GROUP)
                rows[0], classes[0] = rows[0][kept], classes[0][kept]
            return SharedClasses(kind, names, rows[0], classes[0], rows[1], classes[1])
    return None


def _at_most_of_each(classes: Int64[np.ndarray, "n"], most: int) -> Int64[np.ndarray, "kept"]:
    """Ascending places of at most so many of each class, by a fixed seed."""
    order = np.random.default_rng(0).permutation(len(classes))
    by_class = order[np.argsort(classes[order], kind="stable")]
    return np.sort(by_class[_places(np.bincount(classes)) < most])


def _places(sizes: Int64[np.ndarray, "classes"]) -> Int64[np.ndarray, "n"]:
    """0, 1, ... within each class, where classes follow each other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _values(examples: Examples, kind: str) -> list[str]:
    metadata: Sequence[Mapping[str, str]] = examples.metadata
    values = examples.labels if kind == "label" else [own.get(_GROUP, "") for own in metadata]
    return [normalised_caption(value) for value in values]
