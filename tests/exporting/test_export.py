"""Exports: every format computes what was trained, is whole or not there, and loads back."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from oner_jax import export
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.evals.engine.evaluation import Request, measure
from oner_jax.evals.engine.table import by_label
from oner_jax.exporting import parity
from oner_jax.exporting.folder import whole_folder, write_shared
from oner_jax.exporting.formats import FORMATS
from oner_jax.exporting.model_card import model_card
from oner_jax.exporting.source import Source, open_source
from oner_jax.models.files import named_arrays, parameters_from
from oner_jax.models.pretraining import PureModel
from oner_jax.training.checkpointing import schema as items
from oner_jax.training.checkpointing.checkpoints import available_steps, load_run
from oner_jax.training.initialisation import find_weights
from tests import small
from tests.data.samples import picture, run_program
from tests.exporting.reimplementation import NumpyEncoder
from tests.runs import write_run

IN_THIS_PROCESS = ["safetensors", "orbax", "stablehlo", "savedmodel"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("exports") / "run")


@pytest.fixture(scope="module")
def source(run) -> Source:
    return open_source(run)


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "all"
    differences = export.export(source, IN_THIS_PROCESS, out)
    for name in IN_THIS_PROCESS:
        assert set(differences[name]) == {"I", "T", "IT"}
        assert max(differences[name].values()) <= 1e-5, name
    return out


def source_of(settings, **changes) -> Source:
    """A model of any settings, with the embedded tokenizer."""
    tokenizer = Tokenizer.load("embedded")
    settings = dataclasses.replace(settings, vocabulary_size=tokenizer.vocabulary_size)
    model = PureModel(settings)
    config = small_config(settings)
    values: dict[str, Any] = dict(
        workdir=epath.Path("nowhere"),
        config=config,
        settings=settings,
        parameters=jax.tree.map(np.asarray, small.parameters(model)),
        tokenizer=tokenizer,
        weights="online",
        steps=(3,),
        dtype="float32",
    )
    return Source(**values | changes)


def small_config(settings):
    from configs.oner import get_config

    config = get_config("tiny")
    with config.unlocked():
        for field in dataclasses.fields(settings):
            config.model[field.name] = getattr(settings, field.name)
    return config


def assert_equal_trees(one, other) -> None:
    # Raises for trees of different structure.
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_folder_says_what_is_in_it(exported):
    assert {path.name for path in exported.iterdir()} == {
        *("config.json", "tokenizer.model", "preprocessing.py", "README.md", "parity.json"),
        *("model.safetensors", "orbax", "stablehlo", "savedmodel"),
    }
    card = (exported / "README.md").read_text()
    assert "$" not in card.replace("$$", "")
    assert "| safetensors | I " in card
    assert "`backbone.tower.layers.1.mlp.expand.kernel` | 32 x 128" in card
    config = json.loads((exported / "config.json").read_text())
    assert config["weights"] == {"dtype": "float32", "kind": "online", "steps": [20]}
    assert not list(exported.parent.glob(".*")), "nothing unfinished is left"


def test_what_is_loaded_back_is_bit_exact(run, source, exported, tmp_path):
    trained = load_run(run).parameters
    export.export(source, ["orbax"], tmp_path / "orbax")
    for folder in (exported, tmp_path / "orbax"):
        assert available_steps(folder) == [20]
        assert_equal_trees(load_run(folder).parameters, trained)


def test_training_starts_from_an_export(exported, run):
    """With the arrays of the run it was made from, none left out."""
    trained = load_run(run)
    chosen = trained.config.initialise.copy_and_resolve_references().unlock()
    chosen.source = str(exported)
    found = find_weights(trained.model, chosen)
    assert (found.notes, found.fresh) == ([], [])
    by_name = items.by_name(trained.parameters)
    assert found.arrays.keys() == by_name.keys()
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array, by_name[name])


def test_an_export_is_exported_again(exported, run, tmp_path):
    again = open_source(exported)
    assert (again.weights, again.steps) == ("online", (20,))
    export.export(again, ["safetensors"], tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.model"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_an_export_is_evaluated_like_its_run(run, exported):
    own, other = (
        by_label(measure(Request([folder], tasks=["retrieval"], untrained=False)).columns)
        for folder in (run, exported)
    )
    for space in ("projected", "backbone"):
        found = other["step 20"]["toys"]["retrieval"].measurements(space)
        assert found == own["step 20"]["toys"]["retrieval"].measurements(space)
    for weights, column in (("online", "step 20"), ("momentum", "momentum")):
        card = model_card(open_source(run, weights=weights), [], {})
        assert "trained by" not in card
        assert "retrieval/toys/text_R@1" in card
        assert f"weights are those of `{column}`" in card


def test_whoever_may_read_the_config_may_read_the_weights(exported):
    modes = {(exported / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_the_card_has_the_command_that_trained_it(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    manifest = {"command": "python -m oner_jax.train '--workdir=my run'", "revision": "abc"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    card = model_card(open_source(copy), [], {})
    row = "| trained by | `python -m oner_jax.train --workdir=DIR` (revision abc) |"
    assert row in card.splitlines()


def test_stablehlo_runs_where_oner_jax_is_not(exported, source, tmp_path):
    texts = ["a red bicycle", "zwei Kätzchen, ✓", "", "far too long " * 30]
    pictures = np.stack([picture(number, 32, 32) for number in range(4)])
    np.save(tmp_path / "pictures.npy", pictures)
    program = (
        "import importlib.util, runpy, sys, numpy as np\n"
        "assert importlib.util.find_spec('oner_jax') is None\n"
        f"loader = runpy.run_path({str(exported / 'stablehlo' / 'load.py')!r})\n"
        f"encoders = loader['load']({str(exported / 'stablehlo')!r})\n"
        f"ids = loader['token_ids']({texts!r}, {str(exported / 'tokenizer.model')!r}, 8)\n"
        f"pictures = np.load({str(tmp_path / 'pictures.npy')!r})\n"
        f"np.savez({str(tmp_path / 'found.npz')!r}, ids=ids, image=encoders['image'](pictures),\n"
        "         text=encoders['text'](ids), joint=encoders['joint'](pictures[:2], ids[:2]))\n"
        "assert 'oner_jax' not in sys.modules and 'flax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, timeout=300)
    found = np.load(tmp_path / "found.npz")
    ids = source.tokenizer.encode(texts, 8)
    np.testing.assert_array_equal(found["ids"], ids)
    reference = source.reference
    for name, expected in (
        ("image", reference(images=pictures)),
        ("text", reference(text=ids)),
        ("joint", reference(images=pictures[:2], text=ids[:2])),
    ):
        np.testing.assert_allclose(found[name], expected.projected, atol=1e-5)


@pytest.mark.parametrize(
    "stem",
    [
        {},
        dict(stem="convolution", stem_width=4, stem_first_stride=4, patch_size=8),
        dict(stem="convolution", stem_width=4, stem_residual_layers=1),
        dict(depth=1, projection_layers=2),
    ],
    ids=["patch", "convolution", "residual", "one layer"],
)
def test_numpy_alone_computes_the_embeddings(stem, tmp_path):
    source = source_of(small.settings(**stem))
    write_shared(source, tmp_path)
    FORMATS["safetensors"].write(source, tmp_path)
    encoder, reference = NumpyEncoder(tmp_path), source.reference
    images, ids = parity.fixed_inputs(source)
    for given in ({"images": images}, {"text": ids}, {"images": images, "text": ids}):
        expected = reference(**given).projected
        rows = [
            encoder.embed(
                images[row] if "images" in given else None, ids[row] if "text" in given else None
            )
            for row in range(len(images))
        ]
        np.testing.assert_allclose(np.stack(rows), expected, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        dict(architecture="two_towers"),
        dict(architecture="two_legs"),
        dict(architecture="one_tower_two_heads", view_type_embedding=True, learned_logits=True),
        dict(depth=1, predictor_hidden_width=0),
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_names_lead_back_to_the_parameters_of_every_architecture(changes):
    model = PureModel(small.settings(**changes))
    parameters = jax.tree.map(np.asarray, small.parameters(model))
    named = named_arrays(parameters)
    assert_equal_trees(parameters_from(named, model, "file"), parameters)
    name = sorted(named)[0]
    for wrong, complaint in (
        ({**named, "backbone.more": named[name]}, r"file has, .* backbone\.more"),
        ({key: named[key] for key in named if key != name}, f"file lacks {name}"),
        ({**named, name: named[name][..., :1, None]}, f"{name} is of shape"),
    ):
        with pytest.raises(InputError, match=complaint):
            parameters_from(wrong, model, "file")


def test_two_towers_have_programs_for_what_they_can(tmp_path):
    source = source_of(small.settings(architecture="two_towers"))
    differences = export.export(source, ["stablehlo"], tmp_path / "out")
    assert set(differences["stablehlo"]) == {"I", "T"}
    programs = (tmp_path / "out" / "stablehlo").glob("*.stablehlo")
    assert {path.stem for path in programs} == {"image", "text"}
    with pytest.raises(InputError, match=r"add safetensors or orbax to the --format"):
        load_run(tmp_path / "out")


def test_averages_and_momentum_are_what_they_say(run):
    first, second = (load_run(run, step).parameters for step in (10, 20))
    average = open_source(run, average=[10, 20])
    assert average.steps == (10, 20)
    expected = jax.tree.map(
        lambda a, b: ((np.float64(a) + np.float64(b)) / 2).astype(np.float32), first, second
    )
    assert_equal_trees(average.parameters, expected)
    momentum = open_source(run, weights="momentum")
    assert_equal_trees(
        momentum.parameters["backbone"], load_run(run, 20, "momentum").parameters["backbone"]
    )
    assert_equal_trees(momentum.parameters["pixel_head"], second["pixel_head"])


def test_half_the_bytes_cost_less_than_the_tolerance(run, exported, tmp_path):
    export.export(open_source(run, dtype="bfloat16"), ["safetensors", "orbax"], tmp_path / "half")
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path / "half", exported)]
    assert sizes[0] < 0.6 * sizes[1]


def test_an_export_that_computes_something_else_does_not_appear(source, tmp_path, monkeypatch):
    written = FORMATS["safetensors"]

    def read_wrong(source, folder):
        encode = written.read(source, folder)
        return lambda images, ids: encode(images, ids) + np.float32(3e-5)

    monkeypatch.setitem(FORMATS, "safetensors", written._replace(read=read_wrong))
    with pytest.raises(
        InputError, match=r"safetensors: embeddings of view I differ .* by 3\.0e-05"
    ):
        export.export(source, ["safetensors"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_or_not_there(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as folder:  # noqa: PT012
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert list(out.parent.iterdir()) == []
    (out.parent / ".out.partial").mkdir()  # of a killed process
    with whole_folder(out) as folder:
        (folder / "whole").write_text("whole")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "whole").read_text() == "whole"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--workdir is missing"),
        (["--format=safetensor"], "--format=safetensor: there is no such format (did you mean"),
        (["--format="], "--format=: there is no such format"),
        (["--step=99"], "has no checkpoint '99'"),
        (["--average=10"], "--average=10: give different steps, at least two"),
        (["--average=10,x"], "--average=10,x: give steps, as 1000,2000"),
        (["--average=10,20", "--step=20"], "--step and --average: give one"),
        (["--workdir=/nowhere"], "/nowhere holds no run"),
        (["--out=TAKEN"], "exists: remove it"),
        (["--out=FILE"], "exists: remove it"),
        (["--out=FILE/below"], "cannot be made: Not a directory"),
        (["--format=onnx", "--dtype=bfloat16"], "ONNX Runtime's CPU kernels are float32"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, complaint, run, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("somebody's")
    places = {"TAKEN": str(tmp_path / "taken"), "FILE": str(tmp_path / "taken" / "file")}
    for name, path in places.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    given = [f"--workdir={run}", f"--out={tmp_path / 'out'}", *arguments] if arguments else []
    assert run_program(export, *given) == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "taken", tmp_path / "taken" / "file"]


def test_damaged_weights_are_named(exported, tmp_path):
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    content = (exported / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        load_run(tmp_path)


def test_the_shipped_loader_ranks_texts(exported, tmp_path):
    Image.fromarray(picture(3, 60, 80)).save(tmp_path / "picture.jpg")
    command = [sys.executable, str(exported / "stablehlo" / "load.py"), "picture.jpg", "one", "two"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["one", "two"]


def test_two_exports_into_one_folder_are_refused_by_name(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        (folder / "file").touch()
        with (
            pytest.raises(InputError, match=rf"process is writing it \(process {os.getpid()} on "),
            whole_folder(tmp_path / "out"),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(InputError, match="exists: remove it"), whole_folder(tmp_path / "out"):
        pass
    with pytest.raises(KeyError), whole_folder(tmp_path / "other"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left of a failure"


def test_onnx_agrees(source, tmp_path):
    pytest.importorskip("jax2onnx", reason="make test-extras has it")
    differences = export.export(source, ["onnx"], tmp_path / "out")
    assert max(differences["onnx"].values()) <= 1e-5
    files = [tmp_path / "out" / "config.json", *(tmp_path / "out" / "onnx").iterdir()]
    assert len({path.stat().st_mode for path in files}) == 1, "who may read one may read all"
    card = (tmp_path / "out" / "README.md").read_text()
    kinds = {path.name.partition(".")[2] for path in files[1:]}
    assert all(f"image.{kind}`" in card or f'image.{kind}"' in card for kind in kinds)
