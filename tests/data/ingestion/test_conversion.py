import dataclasses
import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oner_jax.data.image_files import ImageOptions
from oner_jax.data.ingestion.conversion import convert
from oner_jax.data.ingestion.options import ConversionOptions, Filters
from oner_jax.data.records import Record
from oner_jax.data.sources import Dropped, Reason
from tests.data.ingestion.fakes import example
from tests.data.samples import encoded, picture
from tests.data.test_image_files import png_claiming

KEEP = ConversionOptions(unpaired="keep")


def image(file: bytes):
    return functools.partial(bytes, file)


def missing():
    raise FileNotFoundError(2, "No such file", "photos/1.jpg")


def unreadable():
    raise PermissionError(13, "Permission denied", "photos/1.jpg")


JPEG = encoded(picture(0, 40, 60), "JPEG")

FAULTS: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "missing image": ({"read_image": missing}, Reason.MISSING_IMAGE, "photos/1.jpg"),
    "unreadable image": ({"read_image": unreadable}, Reason.MISSING_IMAGE, "Permission denied"),
    "no image": ({"read_image": None}, Reason.MISSING_IMAGE, ""),
    "empty file": ({"read_image": image(b"")}, Reason.EMPTY_IMAGE, ""),
    "no picture": ({"read_image": image(b"<html>")}, Reason.UNDECODABLE_IMAGE, "no picture"),
    "cut header": ({"read_image": image(JPEG[:500])}, Reason.UNDECODABLE_IMAGE, "Truncated"),
    "cut picture": ({"read_image": image(JPEG[:-40])}, Reason.UNDECODABLE_IMAGE, "Invalid JPEG"),
    "postscript": (
        {"read_image": image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")},
        Reason.UNDECODABLE_IMAGE,
        "no picture",
    ),
    "bomb": (
        {"read_image": image(png_claiming(30_000, 30_000))},
        Reason.TOO_MANY_PIXELS,
        "",
    ),
    "no caption": ({"captions": ()}, Reason.MISSING_CAPTION, ""),
    "blank caption": ({"captions": (" \n",)}, Reason.MISSING_CAPTION, "caption 1 is blank"),
    "long caption": ({"captions": ("x" * 100_000,)}, Reason.CAPTION_TOO_LONG, "100,000"),
    "half a surrogate": ({"captions": ("\ud800",)}, Reason.INVALID_TEXT, "caption 1"),
    "id of odd bytes": ({"id": "a\udcff"}, Reason.INVALID_TEXT, "'id'"),
    "odd metadata": ({"metadata": {"x": "\udcff"}}, Reason.INVALID_TEXT, "'x'"),
    "odd field name": ({"metadata": {"\udcff": "x"}}, Reason.INVALID_TEXT, "\\udcff"),
    "clashing metadata": ({"metadata": {"image": "x"}}, Reason.BROKEN_ENTRY, "image"),
    "split up a level": ({"split": "../up"}, Reason.BAD_SPLIT, "'../up'"),
    "split like a file": ({"split": "tokenizer.model"}, Reason.BAD_SPLIT, "tokenizer"),
    "endless split": ({"split": "x" * 300}, Reason.BAD_SPLIT, "xxx"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_reason(fault):
    changes, reason, detail = FAULTS[fault]
    outcome = convert(example(0, **changes), ConversionOptions())
    assert isinstance(outcome.result, Dropped)
    assert outcome.result.reason == reason
    assert outcome.result.location == "fake:0"
    assert detail in outcome.result.detail


def test_a_sound_example_is_kept_as_it_is():
    whole = example(3, read_image=image(JPEG), label="a label", metadata={"license": "CC0"})
    outcome = convert(whole, ConversionOptions())
    assert outcome.result == Record(
        "example-3", JPEG, 40, 60, ("thing 3",), "a label", {"license": "CC0"}
    )
    assert outcome.captions_left_out == ()


def test_filters_judge_the_image_as_it_is_in_the_source():
    filters = Filters(minimum_side=40, maximum_aspect=2.0)
    options = ConversionOptions(ImageOptions(maximum_side=10), filters)
    reasons = {}
    for height, width in [(40, 80), (39, 40), (40, 81), (100, 40), (39, 500)]:
        file = encoded(picture(0, height, width), "PNG")
        result = convert(example(0, read_image=image(file)), options).result
        reasons[height, width] = result.reason if isinstance(result, Dropped) else None
    assert reasons == {
        (40, 80): None,
        (39, 40): Reason.IMAGE_TOO_SMALL,
        (40, 81): Reason.ASPECT_TOO_WIDE,
        (100, 40): Reason.ASPECT_TOO_WIDE,
        (39, 500): Reason.IMAGE_TOO_SMALL,
    }


def test_captions_are_judged_one_by_one():
    filters = Filters(minimum_caption_characters=3, maximum_caption_characters=5)
    captions = ("12", "123456", "a tree", "tree", "", "\ud800ab", "four")
    outcome = convert(example(0, captions=captions), ConversionOptions(filters=filters))
    assert isinstance(outcome.result, Record)
    assert outcome.result.captions == ("tree", "four")
    assert [(lost.reason, lost.detail.split()[1]) for lost in outcome.captions_left_out] == [
        (Reason.CAPTION_TOO_SHORT, "1"),
        (Reason.CAPTION_TOO_LONG, "2"),
        (Reason.CAPTION_TOO_LONG, "3"),
        (Reason.MISSING_CAPTION, "5"),
        (Reason.INVALID_TEXT, "6"),
    ]


def test_an_example_goes_with_its_last_caption():
    filters = Filters(minimum_caption_characters=3)
    long_gone = example(0, captions=("", "12"))
    outcome = convert(long_gone, ConversionOptions(filters=filters))
    assert isinstance(outcome.result, Dropped)
    assert outcome.result.reason == Reason.MISSING_CAPTION
    assert len(outcome.captions_left_out) == 2
    kept = convert(long_gone, dataclasses.replace(KEEP, filters=filters))
    assert isinstance(kept.result, Record)
    assert kept.result.captions == ()


def test_unpaired_examples_are_kept_on_request():
    alone = convert(example(0, captions=()), KEEP).result
    text = convert(example(0, read_image=None), KEEP).result
    assert isinstance(alone, Record)
    assert isinstance(text, Record)
    assert (alone.captions, alone.height, alone.width) == ((), 12, 16)
    assert (text.captions, text.image, text.height, text.width) == (("thing 0",), b"", 0, 0)
    nothing = convert(example(0, captions=(), read_image=None), KEEP).result
    assert isinstance(nothing, Dropped)
    # A broken image is damage; its caption does not go on alone.
    broken = convert(example(0, read_image=image(b"broken")), KEEP).result
    assert isinstance(broken, Dropped)
    assert broken.reason == Reason.UNDECODABLE_IMAGE


TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)


@given(
    file=st.binary(max_size=200) | st.sampled_from([JPEG, JPEG[:300], b"RIFF" + JPEG]),
    captions=st.lists(TEXTS, max_size=3),
    texts=st.tuples(TEXTS, TEXTS, TEXTS),
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=2),
    unpaired=st.sampled_from(["drop", "keep"]),
)
def test_nothing_raises_and_every_caption_is_accounted_for(
    file, captions, texts, metadata, unpaired
):
    identifier, label, split = texts
    whatever = example(
        0,
        id=identifier,
        read_image=image(file),
        captions=tuple(captions),
        label=label,
        split=split,
        metadata=metadata,
    )
    outcome = convert(whatever, ConversionOptions(unpaired=unpaired))
    if isinstance(outcome.result, Record):
        assert len(outcome.result.captions) + len(outcome.captions_left_out) == len(captions)
        assert Record.parse(outcome.result.serialise()) == outcome.result


@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    position=st.floats(0, 1, exclude_max=True),
    damage=st.binary(min_size=1, max_size=30),
)
def test_damage_anywhere_in_a_file_raises_nothing(kind, position, damage):
    file = bytearray(encoded(picture(1, 30, 30), kind))
    start = int(position * len(file))
    file[start : start + len(damage)] = damage
    outcome = convert(example(0, read_image=image(bytes(file))), ConversionOptions())
    if isinstance(outcome.result, Dropped):
        assert outcome.result.reason in (Reason.UNDECODABLE_IMAGE, Reason.TOO_MANY_PIXELS)
