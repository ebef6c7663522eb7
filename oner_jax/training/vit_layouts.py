"""Published ViT weights as arrays named and shaped like ours.

big_vision and its ancestors (AugReg)   .npz, after google-research/big_vision `vit.py`
timm                                    .safetensors, after `vision_transformer.py`
Hugging Face                            .safetensors, after transformers' `modeling_vit.py`

Each is first named as timm does, with a layer's arrays under `blocks.N`; then named and shaped as
ours: layers stacked, heads an axis, kernels (in, out). A ViT adds a position to its [CLS]; ours has
none, so that it goes into the [CLS] vector. A ViT expects pixels in [-1, 1] as ours does, unless it
was trained with ImageNet's means; its GELU may be the exact one, ours is the tanh form.
"""

import re
from collections.abc import Mapping

import numpy as np
from etils import epath

from oner_jax.errors import InputError

Arrays = dict[str, np.ndarray]

# big_vision's names; `{}` is the number of the layer. Older files number modules through the layer.
_BIG_VISION = {
    r"(.*/)?cls": "cls_token",
    r"(.*/)?embedding/(kernel|bias)": "patch_embed.proj.{1}",
    r"(.*/)?(?:Transformer/posembed_input/)?pos_embedding": "pos_embed",
    r"(.*/)?Transformer/encoder_norm/(scale|bias)": "norm.{1}",
    r"(.*/)?Transformer/encoderblock_(\d+)/LayerNorm_0/(scale|bias)": "blocks.{1}.norm1.{2}",
    r"(.*/)?Transformer/encoderblock_(\d+)/LayerNorm_[12]/(scale|bias)": "blocks.{1}.norm2.{2}",
    r"(.*/)?Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_\d/(query|key|value|out)/"
    r"(kernel|bias)": "blocks.{1}.attn.{2}.{3}",
    r"(.*/)?Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_0/(kernel|bias)": "blocks.{1}.fc1.{2}",
    r"(.*/)?Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_1/(kernel|bias)": "blocks.{1}.fc2.{2}",
}
_TIMM = {
    r"(.*\.)?cls_token": "cls_token",
    r"(.*\.)?pos_embed": "pos_embed",
    r"(.*\.)?patch_embed\.proj\.(weight|bias)": "patch_embed.proj.{1}",
    r"(.*\.)?norm\.(weight|bias)": "norm.{1}",
    r"(.*\.)?blocks\.(\d+)\.(norm1|norm2)\.(weight|bias)": "blocks.{1}.{2}.{3}",
    r"(.*\.)?blocks\.(\d+)\.attn\.qkv\.(weight|bias)": "blocks.{1}.attn.qkv.{2}",
    r"(.*\.)?blocks\.(\d+)\.attn\.proj\.(weight|bias)": "blocks.{1}.attn.out.{2}",
    r"(.*\.)?blocks\.(\d+)\.mlp\.(fc1|fc2)\.(weight|bias)": "blocks.{1}.{2}.{3}",
}
_LAYER = r"(.*\.)?encoder\.layer\.(\d+)\."
_HUGGING_FACE = {
    r"(.*\.)?embeddings\.cls_token": "cls_token",
    r"(.*\.)?embeddings\.position_embeddings": "pos_embed",
    r"(.*\.)?embeddings\.patch_embeddings\.projection\.(weight|bias)": "patch_embed.proj.{1}",
    r"(.*\.)?layernorm\.(weight|bias)": "norm.{1}",
    _LAYER + r"layernorm_before\.(weight|bias)": "blocks.{1}.norm1.{2}",
    _LAYER + r"layernorm_after\.(weight|bias)": "blocks.{1}.norm2.{2}",
    _LAYER + r"attention\.attention\.(query|key|value)\.(weight|bias)": "blocks.{1}.attn.{2}.{3}",
    _LAYER + r"attention\.output\.dense\.(weight|bias)": "blocks.{1}.attn.out.{2}",
    _LAYER + r"intermediate\.dense\.(weight|bias)": "blocks.{1}.fc1.{2}",
    _LAYER + r"output\.dense\.(weight|bias)": "blocks.{1}.fc2.{2}",
}


def read_vit(path: epath.Path, heads: int) -> tuple[Arrays, list[str]]:
    """The ViT in a file as arrays of ours, and the names of what has no place in our model.

    `heads` is the model's: PyTorch's layouts do not say it. Of ours there are `inputs/...` and
    `tower/blocks/...`, the latter with all layers stacked. Raises InputError for other files.
    """
    arrays, layouts, torch = _read(path)
    for layout in layouts:
        found, left = _renamed(arrays, layout)
        if any(name.startswith("blocks.0.") for name in found):
            return _ours(found, heads, torch), left
    raise InputError(
        f"initialise.source={path} holds no ViT of a known layout (big_vision's .npz, or timm's or "
        f"Hugging Face's .safetensors): its arrays are {', '.join(sorted(arrays)[:4])}, ..."
    )


def _read(path: epath.Path) -> tuple[Arrays, list[Mapping[str, str]], bool]:
    """Arrays by name, the layouts they may have, and whether they are laid out by PyTorch."""
    if path.suffix == ".npz":
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name.removeprefix("params/"): archive[name] for name in archive}
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"initialise.source={path} cannot be read: {error}") from None
        return _unstacked(arrays), [_BIG_VISION], False
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(path.read_bytes())
    except SafetensorError as error:
        raise InputError(f"initialise.source={path} cannot be read: {error}") from None
    return arrays, [_TIMM, _HUGGING_FACE], True


def _unstacked(arrays: Arrays) -> Arrays:
    """big_vision's newer files have layers stacked, as `encoderblock`; by number here."""
    result = {}
    for name, array in arrays.items():
        if "/encoderblock/" not in name:
            result[name] = array
            continue
        for number, layer in enumerate(array):
            result[name.replace("/encoderblock/", f"/encoderblock_{number}/")] = layer
    return result


def _renamed(arrays: Arrays, layout: Mapping[str, str]) -> tuple[Arrays, list[str]]:
    found, left = {}, []
    for name, array in arrays.items():
        for pattern, ours in layout.items():
            match = re.fullmatch(pattern, name)
            if match and "t" not in (match[1] or "")[:1]:  # txt/, text_model.: a caption's tower
                renamed = ours.format(*match.groups())
                found[re.sub(r"\.(kernel|scale)$", ".weight", renamed)] = np.asarray(array)
                break
        else:
            left.append(name)
    return found, left


def _ours(found: Arrays, heads: int, torch: bool) -> Arrays:
    arrays: Arrays = {}
    if "patch_embed.proj.weight" in found:
        kernel = found["patch_embed.proj.weight"]
        # (out, channels, rows, columns), or (rows, columns, channels, out) as our patches have it.
        kernel = kernel.transpose(2, 3, 1, 0) if torch else kernel
        arrays["inputs/stem/project/kernel"] = kernel.reshape(-1, kernel.shape[-1])
        arrays["inputs/stem/project/bias"] = found["patch_embed.proj.bias"]
    width = found["blocks.0.norm1.weight"].shape[0]
    if "pos_embed" in found:
        positions = found["pos_embed"].reshape(-1, width)
        with_cls = round(len(positions) ** 0.5) ** 2 != len(positions)
        arrays["inputs/image_positions"] = positions[with_cls:]
        if "cls_token" in found:
            own = positions[0] if with_cls else 0
            arrays["inputs/cls_token"] = found["cls_token"].reshape(width) + own
    for name in ("weight", "bias"):
        if f"norm.{name}" in found:
            ours = {"weight": "scale"}.get(name, name)
            arrays[f"tower/final_norm/{ours}"] = found[f"norm.{name}"]
    depth = 1 + max(int(name.split(".")[1]) for name in found if name.startswith("blocks."))
    layers = [_layer(found, number, heads, torch) for number in range(depth)]
    for name in layers[0]:
        arrays[f"tower/blocks/{name}"] = np.stack([layer[name] for layer in layers])
    return arrays


def _layer(found: Arrays, number: int, heads: int, torch: bool) -> Arrays:
    """One layer's arrays, without the axis of layers."""

    def take(name: str) -> np.ndarray:
        try:
            return found[f"blocks.{number}.{name}"]
        except KeyError:
            raise InputError(f"initialise.source has no blocks.{number}.{name}") from None

    def linear(name: str) -> np.ndarray:
        return take(name).T if torch else take(name)

    width = take("norm1.weight").shape[0]
    if not torch and (own := take("attn.query.weight").shape[1]) != heads:
        raise InputError(f"initialise.source has {own} heads: set model.heads={own}")

    def by_head(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-1], heads, -1)

    if f"blocks.{number}.attn.qkv.weight" in found:
        kernels = np.split(take("attn.qkv.weight").T, 3, axis=1)
        biases = np.split(take("attn.qkv.bias"), 3)
    else:
        parts = ("query", "key", "value")
        kernels = [linear(f"attn.{part}.weight").reshape(width, -1) for part in parts]
        biases = [take(f"attn.{part}.bias").reshape(-1) for part in parts]
    out = linear("attn.out.weight").reshape(-1, width)
    return {
        "attention_norm/scale": take("norm1.weight"),
        "attention_norm/bias": take("norm1.bias"),
        "attention/qkv/kernel": np.stack([by_head(kernel) for kernel in kernels], axis=1),
        "attention/qkv/bias": np.stack([by_head(bias) for bias in biases]),
        "attention/project/kernel": out.reshape(heads, -1, width),
        "attention/project/bias": take("attn.out.bias"),
        "mlp_norm/scale": take("norm2.weight"),
        "mlp_norm/bias": take("norm2.bias"),
        "mlp/expand/kernel": linear("fc1.weight"),
        "mlp/expand/bias": take("fc1.bias"),
        "mlp/contract/kernel": linear("fc2.weight"),
        "mlp/contract/bias": take("fc2.bias"),
    }
