"""Whatever is given to the API, it answers rightly or raises InputError in one line.

Every case is made of things whose right answer is known beforehand: a good image is one of three
pictures however it comes, so that its embedding has to be that of the picture.
"""

import collections
import copy
import datetime
import decimal
import functools
import io
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import oner_jax
from oner_jax.errors import InputError
from tests.data.samples import encoded, picture
from tests.runs import write_run

SEED = 20260
WORDS = ("a red bicycle", "", "Zwei Kätzchen 🐈")


class Thing(NamedTuple):
    """One image or text as `make` gives it anew each time; `answer` is the number of the picture or
    text that it is, None for what has to be refused."""

    name: str
    make: Callable[[], Any]
    answer: int | None


class Case(NamedTuple):
    """A call: its arguments, and the rows of the right answer (None: InputError)."""

    name: str
    arguments: dict[str, Any]
    answer: Any
    named: str = ""  # what the message has to name


class Column:
    """A column of a table, as pandas has it: an array and a list in one."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        array = np.empty(len(self._values), object)
        for number, value in enumerate(self._values):
            array[number] = value
        return array


class Table(Column):
    columns = ("image", "caption")


class Tensor:
    """An array of another library; `error` where it is on a device that NumPy cannot read."""

    def __init__(self, array, error: Exception | None = None):
        self._array, self._error = array, error

    def __array__(self, dtype=None, copy=None):
        if self._error:
            raise self._error
        return self._array


class PathTo:
    def __init__(self, value):
        self._value = value

    def __fspath__(self):
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class File:
    def __init__(self, content):
        self._content = content

    def read(self):
        if isinstance(self._content, Exception):
            raise self._content
        return self._content


def pixels(number: int) -> np.ndarray:
    return picture(number, 40, 48)


def opened(number: int, image_format: str = "PNG") -> Image.Image:
    return Image.open(io.BytesIO(encoded(pixels(number), image_format)))


def closed_image() -> Image.Image:
    image = opened(0)
    image.close()
    return image


def closed_file() -> io.BytesIO:
    file = io.BytesIO(encoded(pixels(0), "PNG"))
    file.close()
    return file


def good_images(folder: Path) -> Iterator[Thing]:
    for number in range(3):
        path, content = folder / f"{number}.png", encoded(pixels(number), "PNG")
        path.write_bytes(content)
        array = pixels(number)
        for name, make in {
            "path": lambda p=path: str(p),
            "pathlib": lambda p=path: p,
            "path of bytes": lambda p=path: PathTo(bytes(p)),
            "bytes": lambda c=content: c,
            "bytearray": lambda c=content: bytearray(c),
            "memoryview": lambda c=content: memoryview(c),
            "BytesIO": lambda c=content: io.BytesIO(c),
            "open file": lambda p=path: p.open("rb"),
            "unbuffered file": lambda p=path: p.open("rb", buffering=0),
            "lazy Pillow": lambda n=number: opened(n),
            "RGBA": lambda n=number: opened(n).convert("RGBA"),
            "array": lambda a=array: a.copy(),
            "Fortran": lambda a=array: np.asfortranarray(a),
            "strided": lambda a=array: np.repeat(a, 2, axis=0)[::2],
            "reversed": lambda a=array: a[::-1].copy()[::-1],
            "jax": lambda a=array: jnp.asarray(a),
            "tensor": lambda a=array: Tensor(a),
        }.items():
            yield Thing(f"{name} {number}", make, number)


def bad_images(folder: Path) -> Iterator[Thing]:
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "two\nlines.jpg").write_bytes(b"\xff\xd8\xff")
    for name, make in {
        "None": lambda: None,
        "nan": lambda: float("nan"),
        "number": lambda: 7,
        "True": lambda: True,
        "numpy scalar": lambda: np.float32(3),
        "object": object,
        "type": lambda: Image.Image,
        "function": lambda: print,
        "Ellipsis": lambda: ...,
        "date": lambda: datetime.date(2020, 1, 1),
        "decimal": lambda: decimal.Decimal(1),
        "dict": lambda: {"bytes": b"x", "path": "y"},
        "set": lambda: {"a.jpg"},
        "empty path": lambda: "",
        "NUL in a path": lambda: "a\0b.jpg",
        "surrogate in a path": lambda: "\ud800.jpg",
        "long path": lambda: "x" * 5000,
        "missing": lambda: str(folder / "nowhere.jpg"),
        "missing in a file": lambda: str(folder / "text.jpg" / "one.jpg"),
        "directory": lambda: folder,
        "address": lambda: "https://example.org/one.jpg",
        "unknown address": lambda: "nonsense://bucket/one.jpg",
        "lines in a path": lambda: str(folder / "two\nlines.jpg"),
        "text file": lambda: folder / "text.jpg",
        "empty file": lambda: folder / "empty.jpg",
        "path that raises": lambda: PathTo(RuntimeError("no")),
        "path of a number": lambda: PathTo(7),
        "empty bytes": lambda: b"",
        "bytes of text": lambda: b"no picture",
        "truncated": lambda: encoded(picture(1, 90, 90), "JPEG")[:700],
        "closed file": closed_file,
        "file at its end": lambda: io.BytesIO(b""),
        "file of text": lambda: io.StringIO("no picture"),
        "file that raises": lambda: File(RuntimeError("no\nsecond line")),
        "file of None": lambda: File(None),
        "closed Pillow": closed_image,
        "truncated Pillow": lambda: Image.open(
            io.BytesIO(encoded(picture(1, 90, 90), "JPEG")[:700])
        ),
        "empty Pillow": lambda: Image.new("RGB", (0, 30)),
        "empty crop": lambda: opened(0).crop((5, 5, 5, 35)),
        "mode F": lambda: Image.fromarray(np.full((9, 9), 0.5, np.float32)),
        "mode I": lambda: Image.fromarray(np.full((9, 9), 128, np.int32)),
        "mode La": lambda: Image.new("La", (9, 9)),
        "float": lambda: np.zeros((9, 9, 3), np.float32),
        "int": lambda: np.zeros((9, 9, 3), np.int64),
        "bool": lambda: np.zeros((9, 9), bool),
        "complex": lambda: np.zeros((9, 9), complex),
        "uint16": lambda: np.zeros((9, 9), np.uint16),
        "channels first": lambda: np.zeros((3, 9, 9), np.uint8),
        "seven channels": lambda: np.zeros((9, 9, 7), np.uint8),
        "no rows": lambda: np.zeros((0, 9, 3), np.uint8),
        "one dimension": lambda: np.zeros(9, np.uint8),
        "no dimension": lambda: np.uint8(3),
        "five dimensions": lambda: np.zeros((1, 2, 3, 4, 3), np.uint8),
        "dates": lambda: np.zeros((9, 9), "datetime64[s]"),
        "structured": lambda: np.zeros((9, 9), [("r", np.uint8)]),
        "other device": lambda: Tensor(None, TypeError("can't convert cuda:0 to numpy")),
        "deleted": lambda: Tensor(None, RuntimeError("Array has been deleted.")),
        "float jax": lambda: jnp.zeros((9, 9, 3)),
        "table": lambda: Table([b"x"]),
    }.items():
        yield Thing(name, make, None)


def good_texts() -> Iterator[Thing]:
    for number, text in enumerate(WORDS):
        yield Thing(f"text {number}", functools.partial(str, text), number)
        yield Thing(f"numpy text {number}", functools.partial(np.str_, text), number)


def bad_texts() -> Iterator[Thing]:
    for name, value in {
        "None": None,
        "nan": float("nan"),
        "number": 3,
        "bytes": b"a cat",
        "path": Path("a"),
        "surrogate": "a \ud83d cat",
        "list": ["a", "b"],
        "object": object(),
        "date": datetime.date(2020, 1, 1),
    }.items():
        yield Thing(name, functools.partial(copy.copy, value), None)


CONTAINERS: dict[str, Callable[[list], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda items: (item for item in items),
    "iterator": iter,
    "deque": collections.deque,
    "values of a dict": lambda items: dict(enumerate(items)).values(),
    "column": Column,
    "zip": lambda items: itertools.chain(*zip(items)),
}


def embed_cases(folder: Path) -> Iterator[Case]:
    """Each thing apart, and in a list of a random kind between good ones; pairs of both."""
    source = random.Random(SEED)
    right = {"images": [*good_images(folder)], "texts": [*good_texts()]}
    wrong = {"images": [*bad_images(folder)], "texts": [*bad_texts()]}
    for kind in right:
        for thing in [*right[kind], *wrong[kind]]:
            if thing.name != "list":  # apart, it is a list of good texts
                answer = None if thing.answer is None else [thing.answer]
                yield Case(f"{kind}: {thing.name}", {kind: thing.make()}, answer)
            for container in source.sample(sorted(CONTAINERS), 3):
                place = source.randrange(4)
                things = source.choices(right[kind], k=3)
                things.insert(place, thing)
                answers = [each.answer for each in things]
                name = f"{kind}: {container} with {thing.name} at {place}"
                given = {kind: CONTAINERS[container]([each.make() for each in things])}
                if thing.answer is None:
                    one = kind.removesuffix("s")
                    yield Case(name, given, None, f"{one} {place}")
                else:
                    yield Case(name, given, answers)
    for number in range(60):
        images, texts = (
            [source.choice(right[k] if source.random() < 0.9 else wrong[k]) for _ in range(2)]
            for k in right
        )
        pairs = [(a.answer, b.answer) for a, b in zip(images, texts, strict=True)]
        yield Case(
            f"pairs {number}",
            {"images": [each.make() for each in images], "texts": [each.make() for each in texts]},
            None if None in itertools.chain(*pairs) else pairs,
        )


def other_embed_cases() -> Iterator[Case]:
    """Lists that are none, numbers that do not fit, and the other argument."""
    yield Case("nothing", {}, None)
    yield Case("no image", {"images": []}, [])
    yield Case("no text", {"texts": ()}, [])
    yield Case("no row", {"images": np.zeros((0, 9, 9, 3), np.uint8)}, [])
    yield Case("empty array", {"images": np.array([])}, [])
    yield Case("batch", {"images": np.stack([pixels(0), pixels(2)])}, [0, 2])
    yield Case("batch of tensors", {"images": Tensor(np.stack([pixels(1)]))}, [1])
    yield Case("channels first", {"images": np.zeros((2, 3, 9, 9), np.uint8)}, None, "image 0")
    yield Case("floats", {"images": np.zeros((2, 9, 9, 3))}, None, "image 0")
    yield Case("texts as array", {"texts": np.array(["a red bicycle", ""])}, [0, 1])
    yield Case("bytes as array", {"texts": np.array([b"a", b"b"])}, None)
    yield Case("numbers as texts", {"texts": np.zeros(3)}, None)
    yield Case("dict of texts", {"texts": {"a": "b"}}, None)
    yield Case("set of texts", {"texts": {"a", "b"}}, None)
    yield Case("more images", {"images": [pixels(0)] * 2, "texts": ["a"]}, None)
    yield Case("more texts", {"images": pixels(0), "texts": ["a", "b"]}, None)
    yield Case("text as image", {"images": pixels(0), "texts": pixels(0)}, None)
    values: list[Any] = [None, 1, "yes", []]
    for value in values:
        yield Case(f"truncate={value}", {"texts": "a", "truncate": value}, None)
    yield Case("too long", {"texts": ["a", "word " * 99], "truncate": False}, None, "text 1")


THRESHOLDS = (50, -0.1, 1.0001, float("nan"), float("inf"), None, "0.5", True, [0.5], 1 + 0j)


def localize_cases(folder: Path) -> Iterator[Case]:
    source = random.Random(SEED)
    images, bad = [*good_images(folder)], [*bad_images(folder)]
    for thing in source.sample(images, 20):
        threshold = source.choice([0, 0.25, 0.5, np.float32(0.5), 1])
        given = {"image": thing.make(), "phrase": "a red bicycle", "threshold": threshold}
        yield Case(f"{thing.name}, {threshold}", given, (thing.answer, threshold))
    for thing in bad:
        yield Case(thing.name, {"image": thing.make(), "phrase": "a red bicycle"}, None)
    for thing in [
        *bad_texts(),
        Thing("empty", lambda: "", None),
        Thing("two", list("ab").copy, None),
    ]:
        yield Case(f"phrase {thing.name}", {"image": pixels(0), "phrase": thing.make()}, None)
    for threshold in THRESHOLDS:
        given = {"image": pixels(0), "phrase": "a red bicycle", "threshold": threshold}
        yield Case(f"threshold {threshold}", given, None, "threshold")
    for container in (list, tuple):
        yield Case("many", {"image": container([pixels(0)]), "phrase": "a red bicycle"}, None)
    yield Case("batch", {"image": np.stack([pixels(0)] * 2), "phrase": "a red bicycle"}, None)


def load_cases(run: Path, folder: Path) -> Iterator[Case]:
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "list").mkdir()
    (folder / "list" / "config.json").write_text("[1]")
    (folder / "binary").mkdir()
    (folder / "binary" / "config.json").write_bytes(b"\xff\xfe\x00")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"model": {"width": "wide"}}')
    (folder / "file").write_text("")
    names = ("broken", "list", "binary", "other", "file", "nowhere")
    paths = [
        *(folder / name for name in names),
        folder,
        "",
        "a\0b",
        "\ud800",
        "x" * 5000,
        "~nobody",
    ]
    paths += [None, 7, b"run", True, [run], {"path": run}, object(), PathTo(RuntimeError("no"))]
    paths += ["https://example.org/run", "nonsense://bucket/run"]
    for path in paths:
        yield Case(f"path {path!r:.40}", {"path": path}, None)
    step: Any
    for step in (7, -1, 10.0, "10.5", "", "latest", None, True, b"last", "²", [10], np.float64(10)):
        yield Case(f"step {step!r}", {"path": run, "step": step}, None)
    for weights in ("ema", "", "Online", None, 1, b"online", ["online"]):
        yield Case(f"weights {weights!r}", {"path": run, "weights": weights}, None, "weights")
    for size in (0, -8, 2.5, "8", None, True, [8], float("nan")):
        yield Case(f"batch_size {size!r}", {"path": run, "batch_size": size}, None, "batch_size")
    for step in (10, np.int64(10), "10", "last"):
        yield Case(f"step {step!r}", {"path": str(run), "step": step}, 10)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("hostile") / "run", steps=(10,))


@pytest.fixture(scope="module")
def model(run) -> oner_jax.Model:
    return oner_jax.load(run, batch_size=8)


def check_refused(call: Callable, case: Case) -> None:
    with pytest.raises(InputError) as caught:
        call(**case.arguments)
    message = str(caught.value)
    assert "\n" not in message, case.name
    assert len(message) < 1000 or "x" * 5000 in message, case.name
    # The item of a list, by its number or, where it is a file, by its path.
    named = case.named in message or "/" in message or ".jpg" in message or "xxx" in message
    assert named, (case.name, message)


def test_there_are_enough_cases(tmp_path):
    several = (embed_cases(tmp_path), other_embed_cases(), localize_cases(tmp_path))
    assert sum(len(list(cases)) for cases in several) >= 500


@pytest.mark.filterwarnings("ignore::oner_jax.TruncatedTexts")
def test_embed_is_right_or_refuses(unchecked, model, tmp_path):
    single = model.embed(images=[pixels(number) for number in range(3)])
    texts = model.embed(texts=WORDS)
    both = {
        (image, text): model.embed(images=pixels(image), texts=WORDS[text])[0]
        for image, text in itertools.product(range(3), repeat=2)
    }
    known: dict[str, Any] = {"images": single, "texts": texts}
    call = unchecked(oner_jax.Model.embed, model)
    for case in [*embed_cases(tmp_path), *other_embed_cases()]:
        if case.answer is None:
            check_refused(call, case)
            continue
        found = call(**case.arguments)
        rows = both if len(case.arguments) == 2 else known[next(iter(case.arguments))]
        assert found.shape == (len(case.answer), model.features), case.name
        expected = np.array([rows[number] for number in case.answer]).reshape(found.shape)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=case.name)


def test_localize_is_right_or_refuses(unchecked, model, tmp_path):
    call = unchecked(oner_jax.Model.localize, model)
    for case in localize_cases(tmp_path):
        if case.answer is None:
            check_refused(call, case)
            continue
        number, threshold = case.answer
        found = call(**case.arguments)
        expected = model.localize(pixels(number), "a red bicycle", threshold=float(threshold))
        np.testing.assert_allclose(found.heat_map, expected.heat_map, atol=1e-4)
        assert found.box == expected.box, case.name


def test_load_is_right_or_refuses(unchecked, run, tmp_path):
    call = unchecked(oner_jax.load)
    for case in load_cases(run, tmp_path):
        if case.answer is None:
            check_refused(call, case)
        else:
            assert call(**case.arguments).step == case.answer


@pytest.fixture
def unchecked() -> Callable:
    """What users call, without the check of types that tests put before it."""

    def bare(function: Callable, *bound: Any) -> Callable:
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        return lambda **arguments: function(*bound, **arguments)

    return bare
