"""Search: exact against NumPy, by words, picture and both, and FAISS beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oner_jax
from oner_jax import search
from oner_jax.errors import InputError
from oner_jax.indexing.approximate import ApproximateSearch
from oner_jax.indexing.index import Hit, Index
from oner_jax.indexing.nearest import ExactSearch
from oner_jax.indexing.rows import Row
from tests.data.samples import encoded, picture, run_program
from tests.runs import write_run


# Few shapes, since each is compiled.
@settings(max_examples=20)
@given(
    rows=st.sampled_from([1, 40, 64, 65, 200]),
    queries=st.sampled_from([1, 3]),
    k=st.sampled_from([1, 7, 70]),
    chunk_rows=st.sampled_from([1, 128]),
    seed=st.integers(0, 2**32 - 1),
)
def test_exact_search_is_a_sort(rows, queries, k, chunk_rows, seed):
    """Whole numbers, so that there are ties: of equal scores the first row comes first."""
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (rows, 3)).astype(np.float32)
    asked = random.integers(-2, 3, (queries, 3)).astype(np.float32)
    scores, found = ExactSearch(vectors, chunk_bytes=12 * chunk_rows)(asked, k)
    every = asked @ vectors.T
    expected = np.argsort(-every, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(every, expected, axis=1))


def test_faiss_finds_nearly_all_of_it(tmp_path):
    pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    centres = random.normal(size=(200, 16))
    vectors = centres[random.integers(0, 200, 20_000)] + 0.3 * random.normal(size=(20_000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    asked = vectors[:50] + 0.05 * random.normal(size=(50, 16)).astype(np.float32)
    _, exact = ExactSearch(vectors)(asked, 10)
    for _ in range(2):  # made, then read from its file
        _, found = ApproximateSearch(vectors, tmp_path / "faiss.index")(asked, 10)
        shared = [len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]
        assert np.mean(shared) >= 9.5


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("search") / "run", steps=(10,))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(9):
        (folder / f"{number}.png").write_bytes(encoded(picture(number, 30, 30), "PNG"))
    return folder


@pytest.fixture(scope="module")
def index(run, photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    assert run_program(search, f"--model={run}", f"--index={folder}", f"--source={photos}") == 0
    return folder


@pytest.mark.parametrize("query", [{"texts": "a red bicycle"}, {"images": 3}, {"both": 4}])
def test_what_is_found_is_what_the_model_says(run, photos, index, query, capsys):
    model = oner_jax.load(run)
    number = query.get("images", query.get("both"))
    given = {} if number is None else {"images": photos / f"{number}.png"}
    given |= (
        {"texts": "in red"}
        if "both" in query
        else {"texts": query["texts"]}
        if "texts" in query
        else {}
    )
    pictures = sorted(photos.iterdir())
    cosines = model.similarity(model.embed(**given), model.embed(images=pictures))[0]
    flags = [f"--image={given['images']}"] if "images" in given else []
    flags += [f"--text={given['texts']}"] if "texts" in given else []
    assert run_program(search, f"--model={run}", f"--index={index}", "--k=4", "--json", *flags) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    order = np.argsort(-cosines)[:4]
    assert [hit["image"] for hit in hits] == [str(pictures[place]) for place in order]
    np.testing.assert_allclose([hit["score"] for hit in hits], cosines[order], atol=1e-5)
    if query == {"images": 3}:
        assert hits[0]["score"] == pytest.approx(1, abs=1e-5), "a picture finds itself"


def test_a_hit_is_one_line_whatever_its_caption():
    hit = Hit(0.5, Row("1", "a.jpg", "first line\n\r second\u2028third"))
    assert search._as_text(1, hit) == "  1  0.500  a.jpg  first line second third"


def test_the_index_of_another_model_is_refused(index, tmp_path):
    other = write_run(tmp_path / "run", steps=(11,))
    with pytest.raises(InputError, match="was made by another model"):
        Index(index).check_model(oner_jax.load(other))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--text=a cat", "--index=/nowhere"], "/nowhere holds no embeddings"),
        ([], "give --text, --image or both"),
        (["--text= "], "--text is empty"),
        (["--image=/nowhere.jpg"], "/nowhere.jpg: cannot be read"),
        (["--text=a cat", "--model=/nowhere"], "/nowhere holds no run"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, run, index, capsys):
    assert run_program(search, f"--model={run}", f"--index={index}", *flags) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert complaint in message
