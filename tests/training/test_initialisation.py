"""Warm starts: a ViT's weights give a ViT's numbers, and what does not fit is said."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from configs.oner import get_config
from oner_jax.configuration import to_json
from oner_jax.errors import InputError
from oner_jax.models.inputs import normalize_pixels
from oner_jax.models.pretraining import PureModel
from oner_jax.models.views import VIEWS, PairInputs
from oner_jax.training.checkpointing import schema as items
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.guards import init_guard
from oner_jax.training.initialisation import find_weights, initialise, resample_positions
from oner_jax.training.step import TrainState
from tests import small

WIDTH, HEADS, DEPTH, PATCH, SIDE = 16, 2, 3, 4, 4
SETTINGS = small.settings(depth=DEPTH)


def vit(side: int = SIDE) -> dict[str, np.ndarray]:
    """A random ViT as timm names and shapes it."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + side**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (5, WIDTH),
        "head.bias": (5,),
    }
    for layer in range(DEPTH):
        for name, times in {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 2}.items():
            shapes[f"blocks.{layer}.{name}.weight"] = (times * WIDTH, WIDTH)
            shapes[f"blocks.{layer}.{name}.bias"] = (times * WIDTH,)
        shapes[f"blocks.{layer}.mlp.fc2.weight"] = (WIDTH, 2 * WIDTH)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "mlp.fc2.bias"):
            shapes[f"blocks.{layer}.{name}"] = (WIDTH,)
    return {name: random.normal(0, 0.3, shape).astype("f") for name, shape in shapes.items()}


def vit_states(w: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Last-layer states, [CLS] first, in float64, from the equations of Dosovitskiy et al. 2021."""
    w = {name: array.astype(np.float64) for name, array in w.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patches = []
    for top in range(0, images.shape[1], PATCH):
        for left in range(0, images.shape[2], PATCH):
            square = images[:, top : top + PATCH, left : left + PATCH]
            patches.append(np.einsum("bhwc,ochw->bo", square, w["patch_embed.proj.weight"]))
    tokens = np.stack(patches, axis=1) + w["patch_embed.proj.bias"]
    cls = np.broadcast_to(w["cls_token"], (len(images), 1, WIDTH))
    x = np.concatenate([cls, tokens], axis=1) + w["pos_embed"]
    for layer in range(DEPTH):
        name = f"blocks.{layer}"
        q, k, v = np.split(linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv"), 3, axis=-1)
        heads = []
        for part in np.split(np.arange(WIDTH), HEADS):
            scores = q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(len(part))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
        x = x + linear(np.concatenate(heads, axis=-1), f"{name}.attn.proj")
        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        cubic = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
        x = x + linear(hidden * (1 + np.tanh(cubic)) / 2, f"{name}.mlp.fc2")
    return norm(x, "norm")


def as_big_vision(w: dict[str, np.ndarray], *, stacked: bool) -> dict[str, np.ndarray]:
    flat = {
        "cls": w["cls_token"],
        "embedding/kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": w["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": w["pos_embed"],
        "Transformer/encoder_norm/scale": w["norm.weight"],
        "Transformer/encoder_norm/bias": w["norm.bias"],
        "head/kernel": w["head.weight"].T,
    }
    layers = []
    for number in range(DEPTH):
        own = {k.removeprefix(f"blocks.{number}."): v for k, v in w.items() if f"s.{number}." in k}
        layer = {
            "LayerNorm_0/scale": own["norm1.weight"],
            "LayerNorm_0/bias": own["norm1.bias"],
            "LayerNorm_2/scale": own["norm2.weight"],
            "LayerNorm_2/bias": own["norm2.bias"],
            "MlpBlock_3/Dense_0/kernel": own["mlp.fc1.weight"].T,
            "MlpBlock_3/Dense_0/bias": own["mlp.fc1.bias"],
            "MlpBlock_3/Dense_1/kernel": own["mlp.fc2.weight"].T,
            "MlpBlock_3/Dense_1/bias": own["mlp.fc2.bias"],
        }
        attention = "MultiHeadDotProductAttention_1"
        kernels, biases = np.split(own["attn.qkv.weight"], 3), np.split(own["attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            layer[f"{attention}/{part}/kernel"] = kernel.T.reshape(WIDTH, HEADS, -1)
            layer[f"{attention}/{part}/bias"] = bias.reshape(HEADS, -1)
        layer[f"{attention}/out/kernel"] = own["attn.proj.weight"].T.reshape(HEADS, -1, WIDTH)
        layer[f"{attention}/out/bias"] = own["attn.proj.bias"]
        layers.append(layer)
    for name in layers[0]:
        if stacked:
            key = f"params/img/Transformer/encoderblock/{name}"
            flat[key] = np.stack([layer[name] for layer in layers])
        else:
            for number, layer in enumerate(layers):
                flat[f"Transformer/encoderblock_{number}/{name}"] = layer[name]
    return flat


def as_hugging_face(w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    changed = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "encoder.layer.",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = {}
    for name, array in w.items():
        name = name.replace("norm.", "layernorm.") if name.startswith("norm.") else name
        for before, after in changed.items():
            name = name.replace(before, after)
        if "attn.qkv" in name:
            for part, rows in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                renamed[f"vit.{name.replace('attn.qkv', f'attention.attention.{part}')}"] = rows
        else:
            renamed[f"vit.{name}"] = array
    return renamed


def chosen(source, **changes) -> ConfigDict:
    settings = {"source": str(source), "rename": (), "skip": (), "resampling": "bicubic"}
    return ConfigDict(settings | changes)


def fresh_state(model: PureModel) -> TrainState:
    parameters = jax.jit(model.init)(jax.random.key(0))
    momentum = jax.tree.map(jnp.copy, parameters["backbone"])
    return TrainState(jnp.int32(0), parameters, momentum, {}, init_guard(small.GUARD))


def write(path, layout: str, weights: dict[str, np.ndarray]):
    if layout.startswith("big_vision"):
        arrays = as_big_vision(weights, stacked="stacked" in layout)
        np.savez(path.with_suffix(".npz"), allow_pickle=False, **arrays)
        return path.with_suffix(".npz")
    arrays = weights if layout == "timm" else as_hugging_face(weights)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.mark.parametrize("layout", ["timm", "hugging_face", "big_vision", "big_vision stacked"])
def test_a_vit_gives_the_states_of_a_vit(tmp_path, layout):
    weights = vit()
    model = PureModel(SETTINGS)
    source = write(tmp_path / "vit", layout, weights)
    state, said = initialise(fresh_state(model), model, chosen(source))
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    for backbone in (state.parameters["backbone"], state.momentum):
        inputs = PairInputs(normalize_pixels(jnp.asarray(images)), None, None)
        found = model.bind_backbone(backbone).encode(inputs, [VIEWS["I"]])["I"]
        expected = vit_states(weights, images / 127.5 - 1)
        np.testing.assert_allclose(found.cls, expected[:, 0], atol=2e-5)
        assert found.image is not None
        np.testing.assert_allclose(found.image, expected[:, 1:], atol=2e-5)
    assert "not used: " in said
    assert "left fresh: backbone/inputs/word_table" in said
    assert "left fresh: backbone/tower" not in said


def test_positions_of_another_grid_are_resampled(tmp_path):
    weights = vit(side=7)
    model = PureModel(SETTINGS)
    found = find_weights(model, chosen(write(tmp_path / "vit", "timm", weights)))
    table = weights["pos_embed"][0, 1:]
    expected = jax.image.resize(table.reshape(7, 7, -1), (4, 4, WIDTH), "bicubic", antialias=True)
    name = "backbone/inputs/image_positions"
    np.testing.assert_allclose(found.arrays[name], expected.reshape(16, -1), atol=1e-6)
    assert any("resampled" in note and "49 to 16" in note for note in found.notes)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resampling_keeps_what_is_smooth(method):
    """A plane stays a plane, but for the edges: sample points lie at the centres of patches."""

    def plane(side):
        centres = (np.arange(side) + 0.5) / side
        return np.stack(np.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2)

    for before, after in ((8, 16), (32, 8)):
        found = resample_positions(plane(before), after**2, method).reshape(after, after, 2)
        inner = slice(after // 4, -(after // 4))
        expected = plane(after).reshape(after, after, 2)
        np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    model = PureModel(SETTINGS)
    config = get_config("tiny")
    config.model = ConfigDict(dataclasses.asdict(SETTINGS))
    (folder / "config.json").write_text(to_json(config))
    with Checkpoints(folder, CheckpointPolicy(interval_steps=1, keep=1)) as checkpoints:
        parameters = small.parameters(model, seed=5)
        state = TrainState(jnp.int32(4), parameters, {}, {}, init_guard(small.GUARD))
        checkpoints.save(4, state, {})
    return folder, parameters


@pytest.mark.parametrize("inside", ["", "checkpoints/4"])
def test_a_run_of_ours_is_taken_whole(run, inside):
    folder, parameters = run
    model = PureModel(SETTINGS)
    state, said = initialise(fresh_state(model), model, chosen(folder / inside))
    jax.tree.map(np.testing.assert_array_equal, state.parameters, parameters)
    jax.tree.map(np.testing.assert_array_equal, state.momentum, parameters["backbone"])
    assert "100.0% of the parameters" in said
    assert len(said.splitlines()) == 1


def test_arrays_are_renamed_and_skipped(run):
    folder, parameters = run
    towers = PureModel(small.settings(depth=DEPTH, architecture="two_towers"))
    config = chosen(
        folder,
        rename=("backbone/tower=>backbone/image_tower", "/projector=>/image_projector"),
        skip=("image_projector/.*/bias",),
    )
    found = find_weights(towers, config)
    before = items.by_name(parameters)
    name = "backbone/image_tower/blocks/mlp/expand/kernel"
    source = name.replace("image_tower", "tower")
    np.testing.assert_array_equal(found.arrays[name], before[source])
    assert any("image_projector" in note and "initialise.skip" in note for note in found.notes)
    assert "backbone/text_tower/final_norm/scale" in found.fresh
    assert not any("bias" in name for name in found.arrays if "image_projector" in name)


def test_shapes_that_do_not_fit_are_refused_unless_skipped(run):
    folder, _ = run
    wider = PureModel(small.settings(depth=DEPTH, mlp_width=48))
    with pytest.raises(InputError, match=r"mlp/.* is \(2, .*32.*\) there and \(2, .*48.*skip"):
        find_weights(wider, chosen(folder))
    found = find_weights(wider, chosen(folder, skip=("/mlp/",)))
    assert "backbone/tower/blocks/mlp/expand/kernel" in found.fresh
    assert "backbone/tower/blocks/attention/qkv/kernel" in found.arrays


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "nowhere"}, "no workdir, no checkpoint"),
        ({"rename": ("a",)}, "REGEX=>REPLACEMENT"),
        ({"rename": ("(=>b",)}, "initialise.rename has '\\('"),
        ({"skip": ("[",)}, "initialise.skip has '\\['"),
        ({"rename": ("^=>elsewhere/",)}, "none of the model's arrays"),
        ({"rename": ("tower=>\\9",)}, "initialise.rename has .*invalid group reference"),
        ({"rename": ("word_tabel=>x",)}, "rename has 'word_tabel', which matches no array"),
        (
            {"skip": ("backbone/inputs/word_tabel",)},
            r"skip has .*no array \(did you mean 'backbone/inputs/word_table'\?\)",
        ),
        ({"rename": ("tower=>x", "tower=>y")}, "rename has 'tower', which matches no array"),
    ],
)
def test_what_cannot_be_used_is_said(run, changes, said):
    with pytest.raises(InputError, match=said):
        find_weights(PureModel(SETTINGS), ConfigDict(chosen(run[0]).to_dict() | changes))


@pytest.mark.parametrize("name", ["vit.npz", "vit.safetensors"])
def test_files_that_are_no_weights_are_bad_input(tmp_path, name):
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read"):
        find_weights(PureModel(SETTINGS), chosen(tmp_path / name))


def test_pickles_are_not_read(tmp_path):
    np.savez(tmp_path / "vit.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read: Object arrays"):
        find_weights(PureModel(SETTINGS), chosen(tmp_path / "vit.npz"))
