import json
from pathlib import Path

import pytest

from oner_jax.data import sources
from oner_jax.data.sources import FieldNames, Options, Reason
from oner_jax.errors import InputError
from tests.data.sources.entries import examples, fates, images, write_images, write_json
from tests.data.sources.written import read

SYNSETS = {"n01440764": ["tench", "Tinca tinca"], "n01443537": ["goldfish"], "n02012849": ["crane"]}


def imagenet(directory: Path) -> dict[str, bytes]:
    """Four training pictures of each class and one to validate with, laid out as ImageNet is."""
    return write_images(
        directory,
        *(f"train/{synset}/{synset}_{n}.JPEG" for synset in SYNSETS for n in range(4)),
        *(f"val/{synset}/ILSVRC2012_val_{n:08d}.JPEG" for n, synset in enumerate(SYNSETS)),
    )


def test_imagenet(tmp_path):
    content = imagenet(tmp_path / "imagenet")
    names = write_json(tmp_path / "names.json", SYNSETS)
    found = examples(tmp_path / "imagenet", options=Options(class_names=str(names)))
    assert [example.id for example in found] == list(content)
    assert images(found) == list(content.values())
    assert [example.split for example in found] == ["train"] * 12 + ["val"] * 3
    assert found[0].captions == ("tench", "Tinca tinca")
    assert found[0].label == "tench"
    assert found[0].metadata == {"class": "n01440764"}
    assert found[5].captions == ("goldfish",)


def test_parts_are_ranges_of_a_class(tmp_path):
    imagenet(tmp_path / "imagenet")
    names = write_json(tmp_path / "names.json", SYNSETS)
    options = Options(class_names=str(names), splits=("train",))
    parts = sources.open_source(str(tmp_path / "imagenet"), examples_per_part=3, options=options)
    assert [part.examples for part in parts] == [3, 1] * 3
    picture = tmp_path / "imagenet" / "train" / "n01443537" / "n01443537_1.JPEG"
    picture.write_bytes(b"another picture")
    again = sources.open_source(str(tmp_path / "imagenet"), examples_per_part=3, options=options)
    changed = [repr(a) != repr(b) for a, b in zip(parts, again, strict=True)]
    assert changed == [False, False, True, False, False, False]


def test_folders_without_splits_are_called_what_they_are(tmp_path):
    write_images(tmp_path, "great_dane/1.jpg", "great_dane/.hidden", "poodle/sub/2.jpg", "poodle/3")
    found = examples(tmp_path, "class_folders")
    assert [(e.id, e.captions, e.label, e.split) for e in found] == [
        ("great_dane/1.jpg", ("great dane",), "great dane", ""),
        ("poodle/3", ("poodle",), "poodle", ""),
    ]
    without = examples(tmp_path, "class_folders", names=FieldNames(captions=("none",)))
    assert [(e.captions, e.label) for e in without] == [((), "great_dane"), ((), "poodle")]


KERAS = {str(n): [synset, *names] for n, (synset, names) in enumerate(SYNSETS.items())}
LINES = [f"{synset} {', '.join(names)}" for synset, names in SYNSETS.items()]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(reversed([*LINES, "n99999999 not one of ours"])),
        "\n".join(line.replace(" ", "\t", 1) for line in LINES),
        "tench, Tinca tinca\n\ngoldfish\r\ncrane\n",
        json.dumps(SYNSETS),
        json.dumps(list(SYNSETS.values())),
        json.dumps(KERAS),
        "\ufeff" + json.dumps(SYNSETS),
    ],
    ids=["mapping", "tabs", "in order", "object", "list", "keras", "with a mark"],
)
def test_every_way_to_name_classes(tmp_path, content):
    imagenet(tmp_path / "imagenet")
    names = tmp_path / ("names.json" if content.strip("\ufeff")[0] in "{[" else "names.txt")
    names.write_text(content, encoding="utf-8")
    found = examples(tmp_path / "imagenet", options=Options(class_names=str(names)))
    assert [e.captions for e in found[::4][:3]] == [tuple(n) for n in SYNSETS.values()]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("n01440764 tench\nn01443537 goldfish\n", r"no name for class n02012849 \(2 of 3 have one"),
        ("tench\ngoldfish\n", "2 names without their classes, but there are 3 classes"),
        ("tench\nTench\ncrane", "n01440764 and n01443537 are both called 'Tench'"),
        ("n01440764 tench\nn01443537 ,\nn02012849 crane", "no name for class n01443537"),
        ("{", "no UTF-8 text or no JSON"),
        ("7", "neither an object nor a list"),
    ],
)
def test_class_names_that_do_not_fit(tmp_path, content, reason):
    imagenet(tmp_path / "imagenet")
    names = tmp_path / ("names.json" if content in "{7" else "names.txt")
    names.write_text(content)
    with pytest.raises(InputError, match=reason) as error:
        read(tmp_path / "imagenet", options=Options(class_names=str(names)))
    assert "\n" not in str(error.value)


def test_what_is_missing_is_said(tmp_path):
    imagenet(tmp_path / "imagenet")
    cases = {
        Options(): r"classes are called n01440764 and the like; give --class_names",
        Options(class_names="none.txt"): r"none\.txt: cannot be read",
        Options(splits=("vall",)): r"no split 'vall' \(did you mean 'val'\?\); it has train, val",
    }
    for options, reason in cases.items():
        with pytest.raises(InputError, match=reason):
            read(tmp_path / "imagenet", options=options)


def test_files_that_are_no_pictures_are_not_passed_over(tmp_path):
    write_images(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/3.jpg")
    (tmp_path / "cat" / "2.jpg").write_bytes(b"")
    parts = sources.open_source(str(tmp_path), "class_folders", examples_per_part=10)
    (tmp_path / "dog" / "3.jpg").unlink()
    (tmp_path / "dog" / "3.jpg").symlink_to(tmp_path / "nowhere")
    found = [entry for part in parts for entry in part.read()]
    assert fates(found) == [None, Reason.EMPTY_IMAGE]
