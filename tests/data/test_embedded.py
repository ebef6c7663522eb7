"""The data that come with the package are what their documentation says."""

import collections
import dataclasses
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from oner_jax.data import build_embedded, records
from tests.data.samples import encoded, picture, write_jsonl

COUNTS = {"train": 14_024, "val": 889, "new_vendor": 1_660}


@pytest.fixture(scope="module")
def embedded() -> dict[str, list[records.Record]]:
    return {name: list(records.open_split(f"embedded:{name}").records()) for name in COUNTS}


def test_counts(embedded):
    assert {name: len(items) for name, items in embedded.items()} == COUNTS
    ids = [item.id for items in embedded.values() for item in items]
    assert len(set(ids)) == len(ids)


def test_no_leak_between_splits(embedded):
    concepts = {n: {r.metadata["concept"] for r in items} for n, items in embedded.items()}
    sources = {n: {r.metadata["source"] for r in items} for n, items in embedded.items()}
    assert not concepts["val"] & concepts["train"]
    assert concepts["new_vendor"] <= concepts["train"]
    assert sources["new_vendor"] == {"openmoji"}
    assert "openmoji" not in sources["train"]


def test_every_record_is_complete(embedded):
    for items in embedded.values():
        for item in items:
            assert all(caption.strip() for caption in item.captions)
            assert item.label
            assert set(item.metadata) == set(build_embedded.METADATA)
            assert item.height == item.width <= 96


def test_pictures_decode_to_their_size(embedded):
    for item in embedded["val"]:
        with Image.open(io.BytesIO(item.image)) as image:
            assert image.format == "WEBP"
            assert image.size == (item.width, item.height)
            assert np.asarray(image.convert("RGBA"))[..., 3].any()


def test_files_are_small_and_match_their_manifests():
    files = [path for path in records.EMBEDDED_ROOT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    for name in COUNTS:
        split = records.open_split(f"embedded:{name}")
        for shard in split.manifest["shards"]:
            content = (records.EMBEDDED_ROOT / name / shard["file"]).read_bytes()
            assert len(content) < 20e6
            assert hashlib.sha256(content).hexdigest() == shard["sha256"]


def test_licences_name_every_source_with_its_counts(embedded):
    listed = {
        row[0]: dict(zip(COUNTS, map(int, row[1:]), strict=True))
        for row in re.findall(
            r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|",
            (records.EMBEDDED_ROOT / "LICENSES.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    found: dict[str, dict[str, int]] = collections.defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for name, items in embedded.items():
        for item in items:
            found[item.metadata["source"]][name] += 1
    assert listed == found


def test_build_pads_shrinks_and_keeps_what_is_needed(tmp_path):
    fields = {key: f"a {key}" for key in build_embedded.METADATA} | {"alpha": True, "width": 50}
    rows = [
        {"id": f"p{n}", "image": f"images/{n}.png", "caption": f"thing {n}", **fields}
        for n in range(3)
    ]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "2.png").write_bytes(encoded(picture(2, 60, 200), "PNG"))
    write_jsonl(tmp_path, rows)
    options = dataclasses.replace(build_embedded.OPTIONS, vocabulary_size=0)
    build_embedded.build(str(tmp_path), str(tmp_path / "out"), options)
    stored = list(records.open_split(str(tmp_path / "out" / "train")).records())
    assert [dict(item.metadata) for item in stored] == [
        {key: f"a {key}" for key in build_embedded.METADATA}
    ] * 3
    assert [(item.height, item.width) for item in stored] == [(24, 24), (24, 24), (96, 96)]
