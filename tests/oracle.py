"""The method again, in float64 NumPy, from its equations only: nothing of oner_jax is used.

Views are encoded one at a time with a plain attention over the unpadded tokens of one example, so
that segments, padding masks and batching are all checked against something that has none.
"""

import math

import numpy as np


def layer_norm(x, parameters, epsilon=1e-6):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * parameters["scale"] + parameters["bias"]


def gelu(x):
    """The tanh form."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear(x, parameters):
    return x @ parameters["kernel"] + parameters.get("bias", 0.0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def float64(tree):
    """A copy of a parameter tree in float64 NumPy."""
    if isinstance(tree, dict):
        return {key: float64(value) for key, value in tree.items()}
    return np.asarray(tree, np.float64)


class Oracle:
    """A OneR with the linear patch stem, one example at a time."""

    def __init__(self, parameters, *, patch_size, heads):
        self.p = float64(parameters)
        self.patch_size, self.heads = patch_size, heads

    # --- tokens

    def patches(self, image):
        """(patches, pixels) of a normalised (h, w, 3) image."""
        s = self.patch_size
        rows, columns = image.shape[0] // s, image.shape[1] // s
        return np.stack(
            [
                image[r * s : (r + 1) * s, c * s : (c + 1) * s].reshape(-1)
                for r in range(rows)
                for c in range(columns)
            ]
        )

    def image_tokens(self, backbone, image, patch_mask=None):
        inputs = backbone["inputs"]
        tokens = linear(self.patches(image), inputs["stem"]["project"])
        if patch_mask is not None:
            tokens = np.where(patch_mask[:, None], inputs["mask_token"], tokens)
        return tokens + inputs["image_positions"]

    def text_tokens(self, backbone, ids):
        """Of the caption's real ids: no padding."""
        inputs = backbone["inputs"]
        return inputs["word_table"][ids] + inputs["text_positions"][: len(ids)]

    # --- tower

    def attention(self, layer, own, source):
        """Queries from `own`, keys and values from `source`, both normed states."""
        kernel, bias = layer["qkv"]["kernel"], layer["qkv"]["bias"]
        q = np.einsum("tw,whd->htd", own, kernel[:, 0]) + bias[0][:, None]
        k = np.einsum("tw,whd->htd", source, kernel[:, 1]) + bias[1][:, None]
        v = np.einsum("tw,whd->htd", source, kernel[:, 2]) + bias[2][:, None]
        weights = softmax(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]))
        mixed = weights @ v
        project = layer["project"]
        return np.einsum("htd,hdw->tw", mixed, project["kernel"]) + project["bias"]

    def layers(self, tower):
        """Parameters of one layer after the other: `blocks`, if there are any, and the last."""

        def take(tree, index):
            return {k: take(v, index) if isinstance(v, dict) else v[index] for k, v in tree.items()}

        for name in ("blocks", "last_block"):
            if name in tower:
                for index in range(tower[name]["mlp_norm"]["scale"].shape[0]):
                    yield take(tower[name], index)

    def tower(self, backbone, *streams):
        """Streams of tokens through all layers; two streams read each other (CIC), one itself."""
        for layer in self.layers(backbone["tower"]):
            normed = [layer_norm(x, layer["attention_norm"]) for x in streams]
            sources = normed[::-1]
            mixed = [
                x + self.attention(layer["attention"], own, source)
                for x, own, source in zip(streams, normed, sources, strict=True)
            ]
            streams = tuple(
                x
                + linear(
                    gelu(linear(layer_norm(x, layer["mlp_norm"]), layer["mlp"]["expand"])),
                    layer["mlp"]["contract"],
                )
                for x in mixed
            )
        return [layer_norm(x, backbone["tower"]["final_norm"]) for x in streams]

    def view(self, backbone, *, image=None, ids=None, patch_mask=None):
        """Last-layer states of [CLS] + patches and/or words."""
        parts = [backbone["inputs"]["cls_token"][None]]
        if image is not None:
            parts.append(self.image_tokens(backbone, image, patch_mask))
        if ids is not None:
            parts.append(self.text_tokens(backbone, ids))
        return self.tower(backbone, np.concatenate(parts))[0]

    def crossed_views(self, backbone, *, image, ids, patch_mask=None):
        """(I|T, T|I): each stream reads the other's keys and values at every layer."""
        cls = backbone["inputs"]["cls_token"][None]
        return self.tower(
            backbone,
            np.concatenate([cls, self.image_tokens(backbone, image, patch_mask)]),
            np.concatenate([cls, self.text_tokens(backbone, ids)]),
        )

    # --- heads

    def head(self, head, x):
        count = len(head["layers"])
        for i in range(count - 1):
            x = gelu(layer_norm(linear(x, head["layers"][i]), head["norms"][i]))
        return linear(x, head["layers"][count - 1])

    def query(self, cls):
        projected = self.head(self.p["backbone"]["projector"], cls)
        return unit(self.head(self.p["predictor"], projected))

    def key(self, momentum, cls):
        return unit(self.head(momentum["projector"], cls))

    def pixels(self, states):
        return linear(states, self.p["pixel_head"]["project"])

    def word_log_probabilities(self, states):
        head = self.p["word_head"]
        hidden = layer_norm(gelu(linear(states, head["dense"])), head["norm"])
        logits = hidden @ self.p["backbone"]["inputs"]["word_table"].T + head["bias"]
        return log_softmax(logits)


def mix(*vectors):
    return vectors[0] if len(vectors) == 1 else unit(sum(vectors) / len(vectors))


def nce(queries, keys, temperature, captions=None, concepts=None):
    """2 tau mean_i CE(softmax_j(q_i k_j / tau), i); equal captions are no negatives if given.

    Captions are hashes, or a matrix that says which are equal.
    Where concepts are given, the target is spread evenly over all keys of the query's.
    """
    logits = queries @ keys.T / temperature
    target = np.eye(len(logits), dtype=bool)
    if concepts is not None:
        target = concepts[:, None] == concepts[None, :]
    if captions is not None:
        equal = captions if captions.ndim == 2 else captions[:, None] == captions[None, :]
        logits[equal & ~target] = -np.inf
    surprises = np.where(target, -log_softmax(logits), 0).sum(1) / target.sum(1)
    return 2 * temperature * np.mean(surprises)
