"""What the classes of a labelled set are called, where its own names for them are no words.

`embedded:imagenet` are the names of ImageNet's 1,000 classes that CLIP's authors chose (Radford et
al., ICML 2021), but for two of four that they call alike: `projectile` and `sunglass`.

ImageNet's classes, for one, are numbers of WordNet (`n01440764`). A file of the user's says what
they mean, as text

    n01440764 tench, Tinca tinca        one class a line, and its names (or after a tab, where the
    n01443537 goldfish                  class has spaces); or names alone, in the order of classes

or as JSON: {"n01440764": "tench"}, {"n01440764": ["tench", "Tinca tinca"]}, Keras's
{"0": ["n01440764", "tench"]}, or a list of names in the order of classes. Further names of a class
are further captions.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oner_jax.data.sources import files
from oner_jax.data.tokenizer import normalised_caption
from oner_jax.errors import InputError

Names = tuple[str, ...]

_EMBEDDED_PREFIX = "embedded:"
_EMBEDDED_FOLDER = Path(__file__).parents[1] / "class_names"
_WORDNET_NUMBER = re.compile(r"n\d{8}")


def names_of_classes(classes: Sequence[str], path: str, source: str) -> dict[str, Names]:
    """Each class's names, the main one first; those in the file, or made of its own name.

    InputError if the file cannot be read, lacks a class or calls two alike, and where there is no
    file though the classes' own names say nothing.
    """
    if not path:
        if classes and all(map(_WORDNET_NUMBER.fullmatch, classes)):
            raise InputError(
                f"{source}: its classes are called {classes[0]} and the like; "
                "give --class_names=FILE, which says what each means, or for ImageNet's "
                "--class_names=embedded:imagenet"
            )
        return {name: (" ".join(name.split("_")).strip() or name,) for name in classes}
    found = _read(path, classes)
    if missing := [name for name in classes if not found.get(name)]:
        raise InputError(
            f"{path}: has no name for class {missing[0]} "
            f"({len(classes) - len(missing)} of {len(classes)} have one); add it"
        )
    called: dict[str, str] = {}
    for name in classes:
        other = called.setdefault(normalised_caption(found[name][0]), name)
        if other != name:
            raise InputError(
                f"{path}: classes {other} and {name} are both called {found[name][0]!r}; "
                "tell them apart"
            )
    return {name: found[name] for name in classes}


def _read(path: str, classes: Sequence[str]) -> dict[str, Names]:
    if path.startswith(_EMBEDDED_PREFIX):
        path = str(_EMBEDDED_FOLDER / f"{path.removeprefix(_EMBEDDED_PREFIX)}.txt")
    try:
        text = files.read_file(path).decode("utf-8-sig")
        if path.endswith(".json"):
            return _from_json(json.loads(text), path, classes)
        return _from_lines([line for line in text.splitlines() if line.strip()], path, classes)
    except OSError as error:
        raise InputError(f"--class_names={path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"--class_names={path}: no UTF-8 text or no JSON ({error})") from error


def _from_lines(lines: list[str], path: str, classes: Sequence[str]) -> dict[str, Names]:
    pairs = [line.split("\t" if "\t" in line else None, maxsplit=1) for line in lines]
    keyed = {pair[0].strip(): _split(pair[1]) for pair in pairs if len(pair) == 2}
    if set(classes) & set(keyed):
        return keyed
    return _in_order([_split(line) for line in lines], path, classes)


def _from_json(content: Any, path: str, classes: Sequence[str]) -> dict[str, Names]:
    if isinstance(content, list):
        return _in_order([_names(value) for value in content], path, classes)
    if not isinstance(content, Mapping):
        raise InputError(f"--class_names={path}: neither an object nor a list of names")
    keyed = {key: _names(value) for key, value in content.items()}
    if set(classes) & set(keyed):
        return keyed
    return {names[0]: names[1:] for names in keyed.values() if names}  # as Keras has it


def _in_order(names: list[Names], path: str, classes: Sequence[str]) -> dict[str, Names]:
    if len(names) != len(classes):
        raise InputError(
            f"--class_names={path}: {len(names)} names without their classes, "
            f"but there are {len(classes)} classes; write CLASS NAME on each line"
        )
    return dict(zip(classes, names, strict=True))


def _split(text: str) -> Names:
    return _names(text.split(","))


def _names(value: Any) -> Names:
    texts = value if isinstance(value, list) else [value]
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
