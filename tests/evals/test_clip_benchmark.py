"""The model interface of CLIP_benchmark, where PyTorch is installed, and its own evaluation."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from oner_jax.data import records
from oner_jax.data.evaluation import evaluation_set
from oner_jax.data.image_files import open_image
from oner_jax.data.records import Record
from oner_jax.models.embedding import Embedder
from oner_jax.training.checkpointing.checkpoints import load_run
from tests.data.samples import encoded, picture
from tests.evals.runs import tiny_run

torch = pytest.importorskip("torch")

from oner_jax.evals import clip_benchmark  # noqa: E402


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("run"))


def test_pictures_and_texts_are_embedded_as_by_our_own_evaluation(workdir):
    model, transform, tokenize = clip_benchmark.load_oner(pretrained=f"{workdir}@5")
    run = load_run(workdir, 5)
    split = records.open_split(str(workdir / "pictures"))
    stored = [Record.parse(record) for record in split.read(range(len(split)))]
    pixels = torch.stack([transform(open_image(record.image)) for record in stored])
    (ours,) = evaluation_set(split.name, image_size=run.config.model.image_size).image_batches(99)
    difference = np.abs(pixels.numpy().transpose(0, 2, 3, 1).astype(int) - ours)
    assert difference.max() <= 1
    embedder = Embedder(run.model, run.parameters)
    found = model.encode_image(torch.from_numpy(ours.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(found.numpy(), embedder(images=ours).projected, atol=1e-6)
    ids = tokenize([record.captions[0] for record in stored])
    found = model.encode_text(ids)
    np.testing.assert_allclose(found.numpy(), embedder(text=ids.numpy()).projected, atol=1e-6)
    assert torch.equal(tokenize("one text"), tokenize(["one text"]))


def test_its_own_program_runs_our_checkpoint(workdir, tmp_path, monkeypatch):
    builder = pytest.importorskip("clip_benchmark.datasets.builder")
    for number in range(14):  # as the folders of FER2013 are
        path = tmp_path / "data/test" / str(number % 7) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, 48, 48), "PNG"))
    output = tmp_path / "found.json"
    command = ["clip_benchmark", "eval", "--pretrained", str(workdir), "--dataset", "fer2013"]
    command += ["--task", "zeroshot_classification", "--dataset_root", str(tmp_path / "data")]
    command += ["--output", str(output), "--num_workers", "0"]
    monkeypatch.setattr(sys, "argv", command)
    clip_benchmark.main()
    found = json.loads(output.read_text())
    assert found["model"] == "oner_jax"
    model, transform, tokenize = clip_benchmark.load_oner(pretrained=str(workdir))
    data = builder.build_dataset("fer2013", root=str(tmp_path / "data"), transform=transform)
    pictures = model.encode_image(torch.stack([data[row][0] for row in range(len(data))])).numpy()
    names = [
        model.encode_text(tokenize([each.format(c=name) for each in data.templates])).numpy()
        for name in data.classes
    ]
    scores = (
        pictures @ np.stack([each.mean(axis=0) / np.linalg.norm(each.mean(0)) for each in names]).T
    )
    expected = np.mean(scores.argmax(axis=1) == [data[row][1] for row in range(len(data))])
    assert found["metrics"]["acc1"] == pytest.approx(expected)
