"""What the page does, without the page: collections, queries, and the map as HTML."""

import base64
import html.parser
import io
import json
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import oner_jax
from oner_jax import demo_page, embed
from oner_jax.api import Model
from oner_jax.errors import InputError
from oner_jax.page import queries, space_map
from oner_jax.page.collection import Collection, open_collection, shown_picture
from tests.data.samples import encoded, picture, record, run_program, write_split
from tests.page.material import CAPTIONS, write_bad_uploads, write_photos
from tests.runs import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def run(folder) -> Path:
    return write_run(folder / "run", steps=(10,))


@pytest.fixture(scope="module")
def model(run) -> Model:
    return oner_jax.load(run)


@pytest.fixture(scope="module")
def photos(folder) -> Path:
    return write_photos(folder / "photos")


@pytest.fixture(scope="module")
def collection(model, photos, folder) -> Collection:
    return open_collection(model, str(photos), "", folder / "cache")


def test_an_index_is_made_once_and_again_when_the_source_changes(
    model, photos, collection, monkeypatch
):
    assert [row.caption for row in collection.index.rows] == CAPTIONS
    before = sorted(collection.folder.parent.rglob("*"))
    monkeypatch.chdir(photos.parent)
    again = open_collection(model, photos.name, "", collection.folder.parent)
    assert again.folder == collection.folder
    assert sorted(collection.folder.parent.rglob("*")) == before
    with photos.open("a") as file:
        file.write(json.dumps({"image": "0.png", "caption": "one more"}) + "\n")
    try:
        changed = open_collection(model, str(photos), "", collection.folder.parent)
        assert len(changed) == len(CAPTIONS) + 1
    finally:
        photos.write_text("\n".join(photos.read_text().splitlines()[:-1]) + "\n")


def test_pictures_of_records_become_files_that_nothing_in_them_names(model, tmp_path):
    items = [record(number, id=f"../../{number}") for number in range(3)]
    split = write_split(tmp_path / "split", items)
    collection = open_collection(model, split, "", tmp_path / "cache")
    for row, item in zip(collection.index.rows, items, strict=True):
        assert Path(row.image).is_relative_to(collection.folder)
        assert Path(row.image).read_bytes() == item.image
        assert collection.title(row) == item.captions[0]
    everything = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in everything if path.is_relative_to(tmp_path / "cache")} | {
        path for path in everything if path.is_relative_to(tmp_path / "split")
    } == everything


def test_a_folder_of_pictures_without_captions_is_titled_by_names(model, tmp_path):
    (tmp_path / "plain").mkdir()
    for number in range(4):
        (tmp_path / "plain" / f"{number}.png").write_bytes(encoded(picture(number), "PNG"))
    collection = open_collection(model, str(tmp_path / "plain"), "", tmp_path / "cache")
    assert [collection.title(row) for row in collection.index.rows] == [
        f"{number}.png" for number in range(4)
    ]
    assert set(space_map.make_map(model, collection).points) == {"I"}


def test_an_index_that_embed_made_is_taken_as_it_is(model, run, photos, folder, tmp_path):
    flags = [f"--model={run}", f"--source={photos}"]
    assert run_program(embed, *flags, f"--output={tmp_path / 'index'}") == 0
    collection = open_collection(model, str(tmp_path / "index"), "", tmp_path / "cache")
    assert [row.caption for row in collection.index.rows] == CAPTIONS
    assert not (tmp_path / "cache").exists()
    assert run_program(embed, *flags, f"--output={tmp_path / 'words'}", "--view=text") == 0
    with pytest.raises(InputError, match="--view=text: give one of pictures"):
        open_collection(model, str(tmp_path / "words"), "", tmp_path / "cache")
    split = write_split(tmp_path / "split", [record(0), record(1)])
    flags = [f"--model={run}", f"--source={split}"]
    assert run_program(embed, *flags, f"--output={tmp_path / 'records'}") == 0
    with pytest.raises(InputError, match=f"give what it was made from, --images={split}"):
        open_collection(model, str(tmp_path / "records"), "", tmp_path / "cache")


@pytest.mark.parametrize(
    ("words", "number"),
    [("a red car", None), ("", 4), ("  in blue ", 4)],
    ids=["words", "picture", "both"],
)
def test_what_is_found_is_what_the_model_says(model, photos, collection, words, number):
    chosen = None if number is None else str(photos.parent / f"{number}.png")
    answer = queries.find(model, collection, words, chosen, 5)
    files = [photos.parent / f"{each}.png" for each in range(len(CAPTIONS))]
    query = model.embed(images=chosen, texts=words.strip() or None)
    cosines = model.similarity(query, model.embed(images=files))[0]
    order = np.argsort(-cosines)[:5]
    assert [hit.row.caption for hit in answer.hits] == [CAPTIONS[place] for place in order]
    np.testing.assert_allclose([hit.score for hit in answer.hits], cosines[order], atol=1e-5)
    assert answer.notes == []


@pytest.mark.parametrize("words", ["", " \n "])
def test_nothing_to_search_by_is_said(model, collection, words):
    with pytest.raises(InputError, match="Nothing to search by yet"):
        queries.find(model, collection, words, None, 5)


def test_what_the_model_does_not_read_of_the_words_is_said(model, collection):
    limit = model.settings.text_tokens
    answer = queries.find(model, collection, "a red car " * 40, None, 2)
    assert len(answer.notes) == 1
    assert f"reads {limit} word pieces, and these are 120" in answer.notes[0]
    assert answer.notes[0].count("a red car") <= limit // 3
    answer = queries.find(model, collection, "東京の赤い車 car", None, 2)
    assert "“東” “京” “の” “赤” “い” and 1 more are not in the model’s voc" in answer.notes[-1]
    assert queries.reading_notes(model, "A red car") == []
    with pytest.raises(InputError, match="5,000 characters are too many"):
        queries.find(model, collection, "x" * 5000, None, 2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", r"notes\.png: undecodable image \(no picture of a known format\)"),
        ("bomb", r"bomb\.png: too many pixels \(more than 64,000,000 pixels\)"),
        ("cut", r"cut\.jpg: undecodable image"),
    ],
)
def test_an_upload_that_is_no_picture_is_named_without_its_folder(tmp_path, kind, message):
    path = write_bad_uploads(tmp_path / "bad")[kind]
    with pytest.raises(InputError, match=message) as error:
        shown_picture(str(path))
    assert str(tmp_path) not in str(error.value)


def test_a_phrase_is_drawn_where_the_model_says_it_is(model, photos, collection):
    row = collection.index.rows[1]
    shown = collection.picture(row)
    drawn = np.asarray(queries.located(model, shown, "a blue kite"), np.float64)
    assert drawn.shape == (round(640 * shown.height / shown.width), 640, 3)
    # The frame has the colour that nothing else has: its edges are the box's.
    frame = np.argwhere(np.abs(drawn - (0x1F, 0x9E, 0x7A)).sum(axis=2) < 30)
    top, left = frame.min(axis=0)
    bottom, right = frame.max(axis=0)
    scale = 640 / shown.width
    expected = np.array(model.localize(shown, "a blue kite").box) * scale
    np.testing.assert_allclose([left, top, right, bottom], expected, atol=4)
    with pytest.raises(InputError, match="Type what to look for"):
        queries.located(model, shown, " ")


class Elements(html.parser.HTMLParser):
    """Counts elements by class, and reads what they say."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[dict[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append({"tag": tag, **{name: value or "" for name, value in attrs}})
        if tag not in ("input", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "polyline":
            assert self.open.pop() == tag

    def of(self, name: str) -> list[dict[str, str]]:
        return [each for each in self.found if name in each.get("class", "").split()]


def test_the_map_shows_every_view_of_every_pair_with_its_picture(model, collection, monkeypatch):
    drawn = space_map.make_map(model, collection)
    monkeypatch.setattr(space_map, "_computed", None)  # now it is kept
    assert space_map.make_map(model, collection) == drawn
    assert set(drawn.points) == {"I", "T", "IT"}
    every = np.concatenate([np.array(own) for own in drawn.points.values()])
    assert every.shape == (27, 2)
    np.testing.assert_allclose([every.min(axis=0), every.max(axis=0)], [[0.04] * 2, [0.96] * 2])
    page = Elements(space_map.html(drawn))
    dots = [each for each in page.of("dot") if "style" in each]
    assert {each["aria-label"] for each in dots} == {
        f"{view}: {caption}"
        for view in ("picture (I)", "caption (T)", "both together (IT)")
        for caption in CAPTIONS
    }
    for pair, row in zip(page.of("pair"), collection.index.rows, strict=True):
        address = re.search(r"url\(data:image/webp;base64,([^)]+)\)", pair["style"])
        assert address
        seen = Image.open(io.BytesIO(base64.b64decode(address[1]))).convert("RGB")
        expected = collection.picture(row, 112)
        assert seen.size == expected.size
        assert np.abs(np.asarray(seen, float) - np.asarray(expected, float)).mean() < 6


def test_captions_are_text_on_the_map(collection):
    caption = "<script>alert(1)</script>\" onmouseover='x'"
    drawn = space_map.SpaceMap([caption], ["data:,"], {"I": [[0.1, 0.9]]})
    page = Elements(space_map.html(drawn))
    assert not [each for each in page.found if each["tag"] == "script"]
    (dot,) = (each for each in page.of("dot") if "style" in each)
    assert dot["aria-label"].endswith(caption)
    assert set(dot) == {"tag", "class", "tabindex", "role", "aria-label", "style"}


def test_too_few_pictures_make_no_map(model, tmp_path):
    split = write_split(tmp_path / "split", [record(0), record(1)])
    collection = open_collection(model, split, "", tmp_path / "cache")
    assert "Too few pictures" in space_map.html(space_map.make_map(model, collection))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--model=/nowhere"], "/nowhere holds no run"),
        (["--images=/nowhere"], "/nowhere: no such file or directory"),
        (["--images=embedded:none"], "there is embedded:"),
        (["--port=0"], "port"),
        (["--host=nowhere.invalid"], "--host=nowhere.invalid --port=7860 cannot be used"),
        (["--k=none"], "k"),
        (["--images_format=docx"], "images_format"),
    ],
)
def test_a_bad_command_line_is_one_line(flags, complaint, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "oner_jax.page.interface", object())
    flags = [f"--cache={tmp_path}", *flags]
    if flags[1:] and not flags[1].startswith("--model"):
        flags.insert(0, f"--model={run}")
    assert run_program(demo_page, *flags) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert complaint in message


def test_a_port_that_is_taken_is_said_before_anything_is_embedded(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_program(demo_page, "--model=/nowhere", f"--port={port}") == 2
    assert f"--port={port} cannot be used (Address already in use)" in capsys.readouterr().err


def test_without_gradio_it_is_said_what_to_install(run, capsys, monkeypatch):
    modules = sys.modules
    monkeypatch.setitem(modules, "gradio", None)
    monkeypatch.delitem(modules, "oner_jax.page.interface", raising=False)
    assert run_program(demo_page, f"--model={run}") == 2
    assert capsys.readouterr().err == (
        'error: the page needs Gradio: pip install "oner_jax[page]", or -r requirements-page.txt\n'
    )
