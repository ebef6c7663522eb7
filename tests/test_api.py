"""The Python API: everything a picture can come as, and what evaluation would say of it."""

import concurrent.futures
import inspect
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
from etils import epath
from PIL import Image

import oner_jax
from oner_jax.data.evaluation import evaluation_set
from oner_jax.errors import InputError
from oner_jax.evals.inputs import readouts
from oner_jax.exporting.folder import write_shared
from oner_jax.exporting.formats import FORMATS
from oner_jax.exporting.source import open_source
from oner_jax.models.embedding import Embedder
from oner_jax.training.checkpointing.checkpoints import load_run
from tests.data.samples import encoded, picture, record
from tests.runs import PICTURES, write_run

ROOT = Path(__file__).parents[1]
TEXTS = ["a red bicycle", "", "Zwei Kätzchen 🐈", "far too long " * 50]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("api") / "run", steps=(10,))


@pytest.fixture(scope="module")
def model(run) -> oner_jax.Model:
    return oner_jax.load(run, batch_size=8)


@pytest.fixture(scope="module")
def exported(run) -> Path:
    folder = run.parent / "exported"
    folder.mkdir()
    source = open_source(run)
    write_shared(source, folder)
    FORMATS["safetensors"].write(source, folder)
    return folder


def test_embeddings_are_those_of_evaluation(model, run):
    """From the same files, through the pipeline that decodes in TensorFlow."""
    toys = evaluation_set(str(run / "pictures"), image_size=32)
    pixels = np.concatenate(list(toys.image_batches(PICTURES)))
    own = np.stack([model.pixels(record(number).image) for number in range(PICTURES)])
    assert np.abs(own.astype(int) - pixels).max() <= 1
    loaded = load_run(run)
    evaluation = Embedder(loaded.model, loaded.parameters, batch_size=8)
    ids = model.tokenizer.encode(TEXTS, 8)
    np.testing.assert_allclose(
        model.embed_arrays(pixels, None), evaluation(images=pixels).projected, atol=1e-6
    )
    np.testing.assert_allclose(model.embed(texts=TEXTS), evaluation(text=ids).projected, atol=1e-6)
    files = [record(number).image for number in range(PICTURES)]
    both = model.embed(images=files[:4], texts=TEXTS)
    np.testing.assert_allclose(both, evaluation(images=own[:4], text=ids).projected, atol=1e-6)
    # One level in a few pixels is nothing that an embedding shows.
    np.testing.assert_allclose(
        model.embed(images=files), evaluation(images=pixels).projected, atol=0.02
    )


def test_a_picture_may_come_as_anything(model, tmp_path):
    pixels = picture(1, 40, 56)
    file = encoded(pixels, "PNG")
    (tmp_path / "one.png").write_bytes(file)
    path = tmp_path / "one.png"
    expected = model.embed(images=path)
    assert expected.shape == (1, model.features)
    for given in (
        str(path),
        file,
        Image.open(path),
        Image.open(io.BytesIO(file)).convert("RGBA"),
        pixels,
        np.dstack([pixels, np.full((40, 56), 255, np.uint8)]),
        [path],
        (pixels,),
        pixels[None],
    ):
        np.testing.assert_array_equal(model.embed(images=given), expected)
    grey = pixels[..., 0]
    three = model.embed(images=np.repeat(grey[..., None], 3, axis=2))
    for given in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(model.embed(images=given), three)
    jpeg = Image.open(io.BytesIO(encoded(picture(1, 800, 900), "JPEG")))
    model.embed(images=jpeg)
    assert jpeg.size == (900, 800), "the caller's image is as it was"


def test_rows_do_not_depend_on_their_batch(model):
    pictures = [picture(number, 20 + number, 30) for number in range(19)]
    together = model.embed(images=pictures)
    assert together.shape == (19, model.features)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for number in (0, 7, 18):
        np.testing.assert_allclose(
            model.embed(images=pictures[number])[0], together[number], atol=1e-5
        )
    assert model.embed(images=[]).shape == (0, model.features)


def test_similarity_is_the_cosine(model):
    a, b = model.embed(texts=TEXTS), model.embed(texts="a cat")
    found = model.similarity(a, b)
    cosines = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b)
    np.testing.assert_allclose(found, cosines, atol=1e-5)


def test_localisation_is_that_of_evaluation(model, run):
    pixels = picture(5, 90, 120)
    found = model.localize(pixels, "a red bicycle", read_out="projected", patches_per_side=4)
    assert found.heat_map.shape == (90, 120)
    assert found.heat_map.dtype == np.float32
    assert 0 <= found.heat_map.min() < 0.1
    assert 0.9 < found.heat_map.max() <= 1
    left, top, right, bottom = found.box
    assert 0 <= left < right <= 120
    assert 0 <= top < bottom <= 90
    squeezed = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.LANCZOS))
    loaded = load_run(run)
    evaluation = Embedder(loaded.model, loaded.parameters, batch_size=8)
    maps = readouts.heat_maps(
        evaluation(text=model.token_ids(["a red bicycle"])).projected,
        evaluation.patches(squeezed[None]).projected,
    )
    row, column = np.unravel_index(maps[0].argmax(), (4, 4))
    heat = found.heat_map
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(hottest[0] / 90 - (row + 0.5) / 4) < 0.25
    assert abs(hottest[1] / 120 - (column + 0.5) / 4) < 0.25
    inside = heat[round(top) : round(bottom), round(left) : round(right)]
    assert inside.mean() > heat.mean()


def test_a_finer_grid_and_other_read_outs_give_other_maps(model):
    pixels = picture(5, 90, 120)
    maps = [
        model.localize(pixels, "a red bicycle", read_out=read_out, patches_per_side=side).heat_map
        for read_out, side in ((None, None), ("values", None), ("values", 12), ("values", 6))
    ]
    np.testing.assert_array_equal(maps[1], maps[2])  # 12 is the default
    for first, second in ((0, 1), (1, 3)):
        assert np.abs(maps[first] - maps[second]).max() > 0.1
    with pytest.raises(InputError, match=r"read_out='cls' is not one of projected, backbone"):
        model.localize(pixels, "a red bicycle", read_out="cls")


def test_an_export_embeds_like_its_run(model, exported):
    other = oner_jax.load(exported, batch_size=8)
    assert other.identity == model.identity
    np.testing.assert_array_equal(other.embed(texts=TEXTS), model.embed(texts=TEXTS))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "give images=, texts= or both"),
        (dict(images=[b""] * 2, texts=["one"]), "2 images but 1 texts"),
        (dict(images="nowhere.jpg"), r"nowhere\.jpg: cannot be read \(No such file"),
        (dict(images=str(ROOT / "tests")), r"tests: cannot be read \(Is a directory"),
        (dict(images=[picture(1), b"a text"]), "image 1: no picture of a known format"),
        (dict(images=encoded(picture(1, 60, 60), "JPEG")[:900]), "image 0: "),
        (
            dict(images=np.zeros((5, 5, 3), np.float32)),
            r"array of float32 \[5, 5, 3\] is not an im",
        ),
        (dict(images=np.zeros((5, 5, 7), np.uint8)), r"array of uint8 \[5, 5, 7\] is not an image"),
        (dict(images=np.zeros((0, 5, 3), np.uint8)), r"array of uint8 \[0, 5, 3\] is not an image"),
    ],
)
def test_what_cannot_be_embedded_is_named(model, given, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        model.embed(**given)
    assert "\n" not in str(caught.value)


def test_one_lazy_image_with_many_phrases_is_read_once(model):
    """Pillow reads an opened file when first asked, which two threads must not do at once."""
    phrases = [f"thing {number}" for number in range(40)]
    content = encoded(picture(7, 300, 400), "JPEG")
    expected = model.embed(images=[content] * 40, texts=phrases)
    for _ in range(5):
        opened = Image.open(io.BytesIO(content))
        found = model.embed(images=[opened] * 40, texts=phrases)
        np.testing.assert_allclose(found, expected, atol=0.02)
    file = io.BytesIO(content)
    np.testing.assert_array_equal(model.embed(images=[file] * 40, texts=phrases), expected)


def test_threads_may_share_a_model_and_a_lazy_image(model):
    expected = model.embed(images=encoded(picture(7, 300, 400), "PNG"))
    for _ in range(3):
        opened = Image.open(io.BytesIO(encoded(picture(7, 300, 400), "PNG")))
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda image: model.embed(images=image), [opened] * 16))
        np.testing.assert_allclose(np.concatenate(found), np.repeat(expected, 16, 0), atol=1e-6)


def test_the_wrong_one_of_a_thousand_is_named(model):
    pictures: list = [picture(1, 9, 9)] * 1000
    pictures[617] = None
    with pytest.raises(InputError, match=r"^image 617: None is not an image"):
        model.embed(images=pictures)


def test_texts_that_are_cut_off_are_counted(model):
    texts = ["a cat", "far too long " * 50, "", "and this is too long " * 9]
    with pytest.warns(oner_jax.TruncatedTexts, match="2 of 4 texts are longer than the 8 tokens"):
        cut = model.embed(texts=texts)
    with pytest.raises(InputError, match=r"2 of 4 texts are .* first of them text 1 with"):
        model.embed(texts=texts, truncate=False)
    short = [texts[0], texts[2]]
    np.testing.assert_allclose(model.embed(texts=short, truncate=False), cut[[0, 2]], atol=1e-6)


@pytest.mark.parametrize("kind", [list, np.array, jnp.asarray, lambda rows: rows * 1000])
def test_similarity_is_a_cosine_whatever_the_lengths(kind, model):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5, model.features))
    expected = np.array([[1 - scipy.spatial.distance.cosine(x, y) for y in b] for x in a])
    np.testing.assert_allclose(model.similarity(kind(a), kind(b)), expected, atol=1e-6)


@pytest.mark.parametrize("given", [0.0, np.nan, np.inf, "text", None, [[1.0], [1.0, 2.0]]])
def test_vectors_without_a_direction_have_no_cosine(given, model):
    good = model.embed(texts="a cat")
    bad = np.full((2, model.features), given) if isinstance(given, float) else given
    with pytest.raises(InputError, match=r"^similarity: "):
        inspect.unwrap(oner_jax.Model.similarity)(model, good, bad)


def test_loading_a_run_warns_of_nothing(run, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        oner_jax.load(run, weights="momentum", batch_size=8)
    assert not caplog.records


def test_a_pickled_model_is_loaded_from_where_it_was(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    model = oner_jax.load(folder, weights="momentum", batch_size=8)
    other = pickle.loads(pickle.dumps(model))
    assert repr(other) == repr(model)
    assert str(folder) in repr(model)
    assert "momentum weights" in repr(model)
    np.testing.assert_array_equal(other.embed(texts="a cat"), model.embed(texts="a cat"))
    pickled = pickle.dumps(oner_jax.load(folder, batch_size=8))
    shutil.rmtree(folder)
    write_run(folder, steps=(10,), argument="tiny,terms=itc")
    shutil.rmtree(folder / "checkpoints" / "10")
    with pytest.raises(InputError, match="has no finished checkpoint"):
        pickle.loads(pickled)


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_process_is_refused_where_it_would_hang(model):
    child = os.fork()
    if not child:
        try:
            model.embed(texts="a cat")
        except InputError as error:
            os._exit(7 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_the_package_lists_its_api():
    assert set(oner_jax.__all__) <= set(dir(oner_jax))
    assert oner_jax.InputError is InputError


def test_two_towers_have_no_joint_view(tmp_path):
    folder = write_run(
        tmp_path / "run", argument="tiny,architecture=two_towers,terms=itc", steps=(5,)
    )
    towers = oner_jax.load(folder)
    assert towers.views == {"I", "T"}
    with pytest.raises(InputError, match="two_towers has no joint view"):
        towers.embed(images=picture(1), texts="a cat")


@pytest.mark.parametrize(
    ("path", "options", "complaint"),
    [
        ("nowhere", {}, "nowhere holds no run"),
        (".", {"step": 7}, "no checkpoint 7"),
        (".", {"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_what_cannot_be_loaded_is_named(run, path, options, complaint):
    with pytest.raises(InputError, match=complaint):
        oner_jax.load(run / path, **options)


def test_a_run_on_object_storage_is_looked_for_there(monkeypatch):
    def nothing(path: epath.Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "read_text", nothing)
    with pytest.raises(InputError, match=r"^gs://bucket/run holds no run"):
        oner_jax.load("gs://bucket/run")


def test_the_package_is_light_and_its_use_takes_no_tensorflow(exported):
    program = (
        "import sys, oner_jax, json\n"
        "light = sorted({'jax', 'numpy', 'tensorflow'} & sys.modules.keys())\n"
        f"model = oner_jax.load({str(exported)!r})\n"
        "model.localize(__import__('numpy').zeros((9, 9, 3), 'uint8'), 'a cat')\n"
        "print(json.dumps([light, 'tensorflow' in sys.modules]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert json.loads(result.stdout) == [[], False]


def test_the_api_is_documented():
    for name in oner_jax.__all__:
        public = getattr(oner_jax, name)
        assert public.__doc__
        for member, value in inspect.getmembers(public):
            if callable(value) and not member.startswith("_"):
                assert value.__doc__, f"{name}.{member}"
