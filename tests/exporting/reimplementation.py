"""The encoder in plain NumPy, from what a model card says: reads `model.safetensors` and
`config.json` alone, and uses nothing of oner_jax, JAX or the safetensors library."""

import json
import math
from pathlib import Path

import numpy as np


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    behind = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for name, entry in json.loads(content[8:behind]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32"
            first, last = entry["data_offsets"]
            array = np.frombuffer(content[behind + first : behind + last], "<f4")
            arrays[name] = array.reshape(entry["shape"]).astype(np.float64)
    return arrays


def layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def convolution(x, kernel, stride):
    """SAME as TensorFlow's: ceil(side / stride) outputs; of odd padding more stands last."""
    window, side = kernel.shape[0], x.shape[0]
    outputs = -(-side // stride)
    padding = max((outputs - 1) * stride + window - side, 0)
    before = padding // 2
    padded = np.pad(x, [(before, padding - before)] * 2 + [(0, 0)])
    result = np.zeros((outputs, outputs, kernel.shape[3]))
    for row in range(window):
        for column in range(window):
            part = padded[row:, column:][: stride * outputs : stride, : stride * outputs : stride]
            result += part[:outputs, :outputs] @ kernel[row, column]
    return result


class NumpyEncoder:
    def __init__(self, folder: Path):
        self.arrays = read_safetensors(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())
        self.model = self.config["model"]

    def __getitem__(self, name):
        return self.arrays[f"backbone.{name}"]

    def norm(self, x, name):
        return layer_norm(x, self[f"{name}.scale"], self[f"{name}.bias"])

    def linear(self, x, name):
        return x @ self[f"{name}.kernel"] + self[f"{name}.bias"]

    def patches(self, image):
        scale, offset = (self.config["preprocessing"][key] for key in ("scale", "offset"))
        x = image.astype(np.float64) * scale + offset
        size = self.model["patch_size"]
        if self.model["stem"] == "patch":
            side = x.shape[0] // size
            x = x.reshape(side, size, side, size, 3).swapaxes(1, 2).reshape(side * side, -1)
        else:
            first, residual = self.model["stem_first_stride"], self.model["stem_residual_layers"]
            stages = 1 + int(math.log2(size // first))
            strides = [s for i in range(stages) for s in [2 if i else first] + [1] * residual]
            for index, stride in enumerate(strides):
                kernel = self[f"inputs.stem.convolutions.{index}.kernel"]
                y = convolution(x, kernel, stride)
                y = gelu(self.norm(y, f"inputs.stem.norms.{index}"))
                x = x + y if stride == 1 else y
            x = x.reshape(-1, x.shape[-1])
        return self.linear(x, "inputs.stem.project") + self["inputs.image_positions"]

    def words(self, ids):
        ids = ids[ids != self.config["tokenizer"]["pad_id"]]
        return self["inputs.word_table"][ids] + self["inputs.text_positions"][: len(ids)]

    def layer(self, t, name):
        n = self.norm(t, f"{name}.attention_norm")
        kernel, bias = self[f"{name}.attention.qkv.kernel"], self[f"{name}.attention.qkv.bias"]
        q, k, v = (np.einsum("tw,whd->htd", n, kernel[:, i]) + bias[i][:, None] for i in range(3))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        a = weights / weights.sum(-1, keepdims=True) @ v
        project = f"{name}.attention.project"
        t = t + np.einsum("htd,hdw->tw", a, self[f"{project}.kernel"]) + self[f"{project}.bias"]
        m = gelu(self.linear(self.norm(t, f"{name}.mlp_norm"), f"{name}.mlp.expand"))
        return t + self.linear(m, f"{name}.mlp.contract")

    def embed(self, image=None, ids=None):
        """One picture uint8 [size, size, 3], one row of ids, or both."""
        parts = [self["inputs.cls_token"][None]]
        if image is not None:
            parts.append(self.patches(image))
        if ids is not None:
            parts.append(self.words(ids))
        t = np.concatenate(parts)
        for index in range(self.model["depth"]):
            t = self.layer(t, f"tower.layers.{index}")
        x = self.norm(t[0], "tower.final_norm")
        for index in range(self.model["projection_layers"]):
            if index:
                x = gelu(self.norm(x, f"projector.norms.{index - 1}"))
            x = x @ self[f"projector.layers.{index}.kernel"]
        return x / np.linalg.norm(x)
