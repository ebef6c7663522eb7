"""Public benchmarks: which split is scored, with which prompts, and what it should contain.

A benchmark is looked for at `DIRECTORY/NAME/SPLIT`, where `oner_jax.ingest` has put it from
`source`; docs/datasets.md says where each comes from and its licence. Classifiers are fitted on
`DIRECTORY/NAME/train`. Counts are those that the authors publish.
"""

import dataclasses
from collections.abc import Mapping

from oner_jax.errors import InputError
from oner_jax.evals.inputs.features import Examples

CLASS_NAMES_OF_IMAGENET = "--class_names=embedded:imagenet"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a benchmark is scored.

    `source` are the arguments of `oner_jax.ingest`. `pictures` and `classes` (0: no labels)
    are what the split should hold, `captions` how many each picture should have (0: any number).
    `reported` is the metric that papers give.
    """

    source: str
    split: str
    pictures: int
    templates: str = "photo"
    classes: int = 0
    captions: int = 0
    reported: str = "zeroshot/top1"


def _retrieval(source: str, split: str, pictures: int) -> Protocol:
    return Protocol(
        source, split, pictures, "photo", captions=5, reported="retrieval/text_R@1, image_R@1"
    )


def _imagenet(source: str, split: str, pictures: int, classes: int = 1000) -> Protocol:
    arguments = f"{source} {CLASS_NAMES_OF_IMAGENET}"
    return Protocol(arguments, split, pictures, "imagenet_clip", classes)


PROTOCOLS: Mapping[str, Protocol] = {
    "coco": _retrieval("coco/dataset_coco.json --image_directory=coco", "test", 5000),
    "coco_val": _retrieval("coco/dataset_coco.json --image_directory=coco", "val", 5000),
    "flickr30k": _retrieval(
        "flickr30k/dataset_flickr30k.json --image_directory=flickr30k/flickr30k-images",
        "test",
        1000,
    ),
    "imagenet": _imagenet("tfds:imagenet2012", "validation", 50_000),
    "imagenet_v2": _imagenet("tfds:imagenet_v2", "test", 10_000),
    "imagenet_a": _imagenet("tfds:imagenet_a", "test", 7_500, 200),
    "imagenet_r": _imagenet("tfds:imagenet_r", "test", 30_000, 200),
    "imagenet_sketch": _imagenet("tfds:imagenet_sketch", "test", 50_889),
    "cifar10": Protocol("tfds:cifar10", "test", 10_000, "cifar", 10),
    "cifar100": Protocol("tfds:cifar100", "test", 10_000, "cifar", 100),
    "caltech101": Protocol(
        "tfds:caltech101", "test", 6_084, "caltech101", 102, reported="zeroshot/mean_per_class"
    ),
    "dtd": Protocol("tfds:dtd", "test", 1_880, "dtd", 47),
    "eurosat": Protocol("tfds:eurosat/rgb", "train", 27_000, "eurosat", 10),
    "flowers102": Protocol(
        "tfds:oxford_flowers102",
        "test",
        6_149,
        "flowers102",
        102,
        reported="zeroshot/mean_per_class",
    ),
    "food101": Protocol("tfds:food101", "validation", 25_250, "food101", 101),
    "mnist": Protocol("tfds:mnist", "test", 10_000, "mnist", 10),
    "pets": Protocol(
        "tfds:oxford_iiit_pet", "test", 3_669, "pets", 37, reported="zeroshot/mean_per_class"
    ),
    "stl10": Protocol("tfds:stl10", "test", 8_000, "stl10", 10),
    "sun397": Protocol("tfds:sun397", "test", 21_750, "sun397", 397),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name. Raises InputError, naming those that there are."""
    if name not in PROTOCOLS:
        raise InputError(f"no benchmark {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def differences(name: str, examples: Examples) -> list[str]:
    """What sets a dataset apart from the benchmark whose name it has; empty for the benchmark."""
    known = protocol(name)
    found = []
    if len(examples.labels) != known.pictures:
        found.append(f"{len(examples.labels):,} pictures for {known.pictures:,}")
    classes = len({label for label in examples.labels if label})
    if known.classes and classes != known.classes:
        found.append(f"{classes} classes for {known.classes}")
    if known.captions:
        others = sum(len(own) < known.captions for own in examples.captions)
        if others:
            found.append(f"{others:,} pictures with fewer than {known.captions} captions")
    return found
