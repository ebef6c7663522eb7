"""The model that comes with the package: small, whole, and as good as its card says."""

import re

import numpy as np
import pytest

import oner_jax
from oner_jax import embed
from oner_jax.api import RELEASED
from oner_jax.data import records
from oner_jax.evals.inputs.captions import caption_gallery
from tests.data.samples import encoded, picture, run_program

MAXIMUM_BYTES = 15e6


@pytest.fixture(scope="module")
def model():
    return oner_jax.load()


def stated(metric: str) -> float:
    """What the model card says of this metric, as a fraction."""
    row = re.search(rf"^{re.escape(metric)} .*$", card(), re.MULTILINE)
    assert row, f"{metric} is not on the card"
    _, own, *_ = re.findall(r"([\d.]+)%", row[0])  # the first is chance
    return float(own) / 100


def card() -> str:
    return (RELEASED / "README.md").read_text()


def test_it_is_small_and_says_how_it_was_made():
    assert sum(path.stat().st_size for path in RELEASED.rglob("*")) <= MAXIMUM_BYTES
    assert "configs/oner.py:demo,long" in card()


def test_it_finds_as_much_as_its_card_says(model):
    """By a search of its own, with nothing of the evaluation's but which captions are equal."""
    found = list(records.open_split("embedded:val").records())
    gallery = caption_gallery([record.captions for record in found])
    images = model.embed(images=[record.image for record in found])
    ranked = np.argsort(-images @ model.embed(texts=gallery.texts).T, axis=1)
    for k in (1, 10):
        hits = [
            len(set(row[:k]) & set(gallery.matches.of(picture))) > 0
            for picture, row in enumerate(ranked)
        ]
        assert np.mean(hits) == pytest.approx(stated(f"retrieval/val/text_R@{k}"), abs=1e-3)
    assert stated("retrieval/val/text_R@1") > 0.1


def test_it_has_all_views(model):
    assert model.views == {"I", "T", "IT"}


def test_programs_take_it_where_no_model_is_named(model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.png").write_bytes(encoded(picture(0), "png"))
    out = tmp_path / "out"
    assert run_program(embed, f"--source={photos}", f"--output={out}") == 0
    found = np.load(out / "embeddings.npy")
    np.testing.assert_allclose(found, model.embed(images=photos / "one.png"), atol=1e-6)
