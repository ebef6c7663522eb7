"""What a model is made of: the one typed description that every module of `models/` reads."""

import dataclasses

import jax.numpy as jnp
from ml_collections import ConfigDict

from oner_jax.errors import InputError

ARCHITECTURES = ("one_tower", "one_tower_two_heads", "two_towers", "two_legs")
STEMS = ("patch", "convolution")
REMAT_POLICIES = ("none", "cheap", "mlp", "qkv", "attention", "full")
ATTENTIONS = ("auto", "xla", "cudnn")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# They are written out one by one, unlike the layers of the tower.
MAXIMUM_PROJECTION_LAYERS = 16
# The least that a number may be, where it is not 1.
MINIMUM = {"predictor_hidden_width": 0, "projection_hidden_width": 0, "stem_residual_layers": 0}


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Shape of the network, with `config.model` of a recipe as its only source.

    `image_size` and `patch_size` are in pixels, `text_tokens` and `vocabulary_size` in sub-words.
    `predictor_hidden_width` 0 leaves the predictor out. A projection of one layer has no hidden
    width: `projection_hidden_width` may then be 0. With `learned_logits` the contrast's scale and
    bias are parameters (CLIP, SigLIP) and not fixed by the temperature.
    `dtype` is the compute type; parameters, normalisation, softmax and losses stay float32.
    """

    image_size: int
    patch_size: int
    text_tokens: int
    vocabulary_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    projection_hidden_width: int
    projection_width: int
    predictor_hidden_width: int
    architecture: str = "one_tower"
    projection_layers: int = 3
    learned_logits: bool = False
    stem: str = "patch"
    stem_width: int = 32
    stem_first_stride: int = 2
    stem_residual_layers: int = 0
    view_type_embedding: bool = False
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    layers_per_scan_step: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = MINIMUM.get(field.name, 1)
            if field.type is int and getattr(self, field.name) < least:
                raise InputError(
                    f"model.{field.name}={getattr(self, field.name)} must be at least {least}"
                )
        checks = [
            (
                self.architecture in ARCHITECTURES,
                f"model.architecture={self.architecture!r} is not one of "
                f"{', '.join(ARCHITECTURES)}",
            ),
            (
                self.architecture != "two_legs" or self.depth % 2 == 0,
                f"model.depth={self.depth}: two_legs has half as many layers in its text leg and "
                "in its fusion, so it must be even",
            ),
            (
                self.projection_layers <= MAXIMUM_PROJECTION_LAYERS,
                f"model.projection_layers={self.projection_layers} must be at most "
                f"{MAXIMUM_PROJECTION_LAYERS}",
            ),
            (
                self.projection_layers == 1 or self.projection_hidden_width > 0,
                f"model.projection_hidden_width={self.projection_hidden_width} must be at least 1 "
                f"with model.projection_layers={self.projection_layers}",
            ),
            (self.stem in STEMS, f"model.stem={self.stem!r} is not one of {', '.join(STEMS)}"),
            (
                self.remat in REMAT_POLICIES,
                f"model.remat={self.remat!r} is not one of {', '.join(REMAT_POLICIES)}",
            ),
            (
                self.attention in ATTENTIONS,
                f"model.attention={self.attention!r} is not one of {', '.join(ATTENTIONS)}",
            ),
            (self.dtype in DTYPES, f"model.dtype={self.dtype!r} is not one of {', '.join(DTYPES)}"),
            (
                self.image_size % self.patch_size == 0,
                f"model.image_size={self.image_size} is not a multiple of "
                f"model.patch_size={self.patch_size}",
            ),
            (
                self.width % self.heads == 0,
                f"model.width={self.width} is not a multiple of model.heads={self.heads}",
            ),
            (
                self.stem == "patch" or self.patch_size & (self.patch_size - 1) == 0,
                f"model.patch_size={self.patch_size} must be a power of two for "
                "model.stem='convolution' (each layer halves the side)",
            ),
            (
                self.stem == "patch" or self.stem_first_stride in (2, min(4, self.patch_size)),
                f"model.stem_first_stride={self.stem_first_stride} must be 2, or 4 with patches of "
                "at least 4 pixels",
            ),
        ]
        for holds, complaint in checks:
            if not holds:
                raise InputError(complaint)

    @classmethod
    def from_config(cls, model_config: ConfigDict) -> "ModelSettings":
        """Read `config.model`; every key of it must be a field here and the reverse."""
        return cls(**{name: model_config[name] for name in model_config})

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.patches_per_side**2

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(DTYPES[self.dtype])
