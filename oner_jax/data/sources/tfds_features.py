"""Which features of a TFDS set are the image, the captions and the label."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from oner_jax.data.host_tensorflow import tf
from oner_jax.data.sources import fields
from oner_jax.data.sources.class_names import Names, names_of_classes
from oner_jax.errors import InputError

_TAKEN = ("image", "captions", "label", "split")  # names of other things in a raw example


@dataclasses.dataclass(frozen=True)
class Classes:
    """Of every class, by its number: its own name, and what it is called, the main name first."""

    names: Names = ()
    called: tuple[Names, ...] = ()

    def __repr__(self) -> str:
        digest = hashlib.sha256(repr((self.names, self.called)).encode(errors="replace"))
        return f"Classes({len(self.names)}, {digest.hexdigest()})"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which features are what. Empty: there is none.

    `captions` are features of texts, the main one first. `label` is a feature of numbers of
    `classes`, and what these are called are the captions if `class_captions`. `metadata` are
    features of one value, among them the `id`; without one, ids are TFDS's own.
    """

    image: str = ""
    captions: tuple[str, ...] = ()
    label: str = ""
    classes: Classes = Classes()
    class_captions: bool = False
    metadata: tuple[str, ...] = ()
    id: str = ""


@dataclasses.dataclass(frozen=True)
class _Feature:
    """A feature without others in it. `depth`: how many sequences it is in."""

    connector: Any
    depth: int


def layout_of(features: Any, names: fields.FieldNames, class_names: str, source: str) -> Layout:
    """The layout of a set with these features (a `tfds.features.FeaturesDict`).

    InputError where `names` asks for a feature that is none of its kind, or must choose one.
    """
    import tensorflow_datasets as tfds

    found = dict(_leaves(features))
    single = {path: f.connector for path, f in found.items() if f.depth == 0}
    labels = [p for p, f in single.items() if isinstance(f, tfds.features.ClassLabel)]
    texts = _texts(found)
    listing = ", ".join(found)

    image = _image(single, names.image, source)
    if unknown := [n for n in names.captions if n not in (fields.NO_FIELD, *texts, *labels)]:
        raise InputError(f"{source}: has no text {unknown[0]!r}; its features are {listing}")
    label = next((name for name in names.captions if name in labels), "")
    if not label and ("label" in labels or len(labels) == 1):
        label = "label" if "label" in labels else labels[0]
    chosen = names.captions or fields.guess("caption", list(texts), source)
    captions = tuple(texts[name] for name in chosen if name in texts)
    class_captions = label in names.captions or bool(label and not names.captions and not captions)
    if texts and not (captions or class_captions or names.captions):
        raise InputError(
            f"{source}: which feature is the caption? Its features are {listing}; "
            f"give --caption_field=NAME, or --caption_field={fields.NO_FIELD}"
        )
    if class_names and not label:
        raise InputError(f"{source}: has no label for --class_names; its features are {listing}")
    classes = (
        _classes(single[label].names, class_names, class_captions, source) if label else Classes()
    )
    metadata = tuple(
        path
        for path, feature in single.items()
        if path not in (image, label, *captions, *_TAKEN)
        and isinstance(feature, tfds.features.Tensor)
        and feature.shape == ()
    )
    if names.id and names.id not in metadata:
        raise InputError(f"{source}: has no {names.id!r} for an id; it has {', '.join(metadata)}")
    return Layout(
        image=image,
        captions=() if class_captions else captions,
        label=label,
        classes=classes,
        class_captions=class_captions,
        metadata=metadata,
        id=names.id,
    )


def _leaves(feature: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, _Feature]]:
    """Every feature that holds values, under the name that it has in a record."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        for name, inner in feature.items():
            yield from _leaves(inner, f"{path}/{name}" if path else name, depth)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, path, depth + 1)
    else:
        yield path, _Feature(feature, depth)


def _texts(found: dict[str, _Feature]) -> dict[str, str]:
    """The names in a record of all features of texts, by what a user calls them.

    That is the name of the outermost feature, `captions`, where only one text is in it.
    """
    import tensorflow_datasets as tfds

    paths = [
        path
        for path, feature in found.items()
        if isinstance(feature.connector, tfds.features.Tensor)
        and feature.connector.shape == ()
        and feature.connector.get_tensor_info().tf_dtype == tf.string
        and feature.depth <= 1  # deeper ones do not say which text belongs where
    ]
    # COCO has a feature `image/filename` beside `image`, so only sequences are called so.
    outermost = [p.split("/")[0] if found[p].depth else p for p in paths]
    return {
        outer if outermost.count(outer) == 1 else path: path
        for outer, path in zip(outermost, paths, strict=True)
    }


def _image(single: dict[str, Any], wanted: str, source: str) -> str:
    import tensorflow_datasets as tfds

    images = [
        path
        for path, feature in single.items()
        if isinstance(feature, tfds.features.Image)
        and not isinstance(feature, tfds.features.LabeledImage)
    ]
    if wanted == fields.NO_FIELD:
        return ""
    if wanted and wanted not in images:
        raise InputError(
            f"{source}: has no image {wanted!r}; its images are {', '.join(images) or 'none'}"
        )
    if not wanted and "image" not in images and len(images) > 1:
        raise InputError(
            f"{source}: {' and '.join(images)} may each be the image; choose with --image_field"
        )
    return wanted or ("image" if "image" in images else "".join(images))


def _classes(names: list[str], class_names: str, class_captions: bool, source: str) -> Classes:
    if not (class_names or class_captions):
        return Classes(tuple(names), tuple((name,) for name in names))
    called = names_of_classes(names, class_names, source)
    return Classes(tuple(names), tuple(called[name] for name in names))
