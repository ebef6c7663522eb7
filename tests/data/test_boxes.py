"""Files of phrases and boxes: what they mean, and how a wrong line is answered."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oner_jax.data.boxes import content_hash, read_boxes
from oner_jax.errors import InputError

GOOD = {"image": "wide.png", "phrase": "red", "box": [10, 5, 30, 20]}


def write(folder: Path, *lines: object) -> Path:
    picture = np.full((20, 40, 3), 255, np.uint8)
    picture[5:20, 10:30] = [200, 0, 0]
    Image.fromarray(picture).save(folder / "wide.png")
    Image.fromarray(picture[:, ::-1]).save(folder / "other.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG of another kind")
    path = folder / "boxes.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def test_queries_by_picture_with_boxes_as_parts(tmp_path):
    path = write(
        tmp_path,
        GOOD,
        {"image": "other.jpg", "phrase": "red", "box": [10, 5, 30, 20]},
        {**GOOD, "phrase": "ground", "box": [0, 0, 10, 20]},
        {**GOOD, "phrase": "ground", "box": [30, 0, 40, 20]},
    )
    boxed = read_boxes(path, image_size=10)
    assert boxed.phrases == ["red", "ground", "red"]
    assert boxed.pictures.tolist() == [0, 0, 1]
    np.testing.assert_allclose(boxed.boxes[0], [[0.25, 0.25, 0.75, 1.0]])
    np.testing.assert_allclose(boxed.boxes[1], [[0, 0, 0.25, 1], [0.75, 0, 1, 1]])
    (images,) = boxed.image_batches(5)
    assert images.shape == (2, 10, 10, 3)
    # The picture is squeezed as its boxes are: red is where the box says.
    np.testing.assert_allclose(images[0, 5:, 4:6].mean(axis=(0, 1)), [200, 0, 0], atol=12)
    assert images[0, :, 0].min() > 230
    assert boxed.picture(0).size == (40, 20)
    assert [len(batch) for batch in boxed.image_batches(1)] == [1, 1]


def test_the_hash_changes_with_the_file(tmp_path):
    first = content_hash(write(tmp_path, GOOD))
    assert first == content_hash(tmp_path / "boxes.jsonl")
    assert first != content_hash(write(tmp_path, GOOD, {**GOOD, "phrase": "it"}))


def test_the_hash_changes_with_a_picture(tmp_path):
    first = content_hash(write(tmp_path, {**GOOD, "image": "wide.bmp"}))
    hashes = {first}
    for level in (10, 20):
        Image.fromarray(np.full((20, 40, 3), level, np.uint8)).save(tmp_path / "wide.bmp")
        hashes.add(content_hash(tmp_path / "boxes.jsonl"))
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (["no object"], 'lacks "image"'),
        ({**GOOD, "image": 3}, 'lacks "image"'),
        ({"image": "wide.png", "box": [0, 0, 1, 1]}, 'lacks "phrase"'),
        ({**GOOD, "phrase": " "}, "phrase is empty"),
        ({**GOOD, "phrase": "\u200b"}, "phrase is empty"),
        ({**GOOD, "phrase": "half \ud83d"}, r"\"phrase\" holds half of a surrogate pair"),
        ({**GOOD, "image": "\ud83d.png"}, r"\"image\" holds half of a surrogate pair"),
        ({**GOOD, "image": "none.png"}, "none.png does not exist"),
        ({**GOOD, "image": "broken.png"}, "cannot be decoded"),
        ({"image": "wide.png", "phrase": "red"}, r"write \"box\": \[left"),
        ({**GOOD, "box": [1, 2, 3]}, r"write \"box\": \[left"),
        ({**GOOD, "box": [1, 2, 3, "4"]}, r"write \"box\": \[left"),
        ({**GOOD, "box": [10, 5, 41, 20]}, "which is 40 x 20"),
        ({**GOOD, "box": [30, 5, 10, 20]}, "empty or outside"),
        ({**GOOD, "box": [float("nan"), 5, 10, 20]}, "empty or outside"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, complaint):
    path = write(tmp_path, GOOD, line)
    with pytest.raises(InputError, match=complaint) as caught:
        read_boxes(path, image_size=8)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


def test_files_that_hold_nothing(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_boxes(tmp_path / "nowhere.jsonl", image_size=8)
    with pytest.raises(InputError, match="no line"):
        read_boxes(write(tmp_path), image_size=8)
    path = write(tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        read_boxes(path, image_size=8)
