"""What the objective of a run is made of, checked."""

import dataclasses
from collections.abc import Mapping
from typing import get_args

from ml_collections import ConfigDict

from oner_jax.errors import InputError
from oner_jax.objectives.contrastive import Form
from oner_jax.objectives.terms import TERMS, required_views

KEY_SOURCES = ("momentum", "online")


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """`config.objective`: a weight by term's name (0 leaves it out) and the terms' constants.

    `key_source` says whose projections the queries meet: the momentum twin's, or the online
    model's own, through which the gradient then flows too (CLIP). `form` is that of the contrast,
    softmax or sigmoid. With `mask_equal_captions`, pairs of equal captions are not each other's
    negatives; with `equal_concepts_are_positives`, pairs of equal concepts are each other's
    positives, which goes before (`contrastive.py`). `logit_bias` is added to logits of the sigmoid
    form; with `model.learned_logits` it and `temperature` are only where training starts.
    """

    weights: Mapping[str, float]
    key_source: str
    form: str
    temperature: float
    logit_bias: float
    mask_equal_captions: bool
    image_mask_fraction: float
    image_mask_block_patches: int
    word_mask_fraction: float
    equal_concepts_are_positives: bool = False

    def __post_init__(self) -> None:
        for name in self.weights:
            if name not in TERMS:
                raise InputError(f"objective.weights.{name}: terms are {', '.join(TERMS)}")
        if not any(weight > 0 for weight in self.weights.values()):
            raise InputError("objective.weights: every weight is 0, there is nothing to learn")
        for name, valid in (("key_source", KEY_SOURCES), ("form", get_args(Form))):
            if getattr(self, name) not in valid:
                raise InputError(
                    f"objective.{name}={getattr(self, name)!r} is not one of {', '.join(valid)}"
                )
        if self.temperature <= 0:
            raise InputError(f"objective.temperature={self.temperature} must be above 0")
        for name in ("image_mask_fraction", "word_mask_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"objective.{name}={getattr(self, name)} is not in [0, 1)")
        if self.image_mask_block_patches < 1:
            raise InputError(
                f"objective.image_mask_block_patches={self.image_mask_block_patches} must be at "
                "least 1"
            )

    @classmethod
    def from_config(cls, objective_config: ConfigDict) -> "ObjectiveSettings":
        """Read `config.objective`; every key of it must be a field here and the reverse."""
        fields = {name: objective_config[name] for name in objective_config}
        return cls(**fields | {"weights": dict(fields["weights"])})

    @property
    def active_terms(self) -> tuple[str, ...]:
        """Terms of weight above 0, in the table's order."""
        return tuple(name for name in TERMS if self.weights.get(name, 0) > 0)

    def check_served(self, architecture: str, views: frozenset[str]) -> None:
        """Raise InputError where a term needs a view that the architecture does not have."""
        for name in self.active_terms:
            missing = sorted(required_views(name) - views)
            if missing:
                possible = [term for term in TERMS if required_views(term) <= views]
                raise InputError(
                    f"objective.weights.{name} needs the view {' and '.join(missing)}, which "
                    f"model.architecture={architecture!r} does not have (its views: "
                    f"{', '.join(sorted(views))}): set it to 0; possible are {', '.join(possible)}"
                )
