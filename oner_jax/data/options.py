"""What of a recipe decides how training data are read."""

import dataclasses

from ml_collections import ConfigDict

from oner_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """`config.data.augment`: strengths of the changes; 0 leaves a change out.

    `scale` s enlarges or shrinks by a factor that is log-uniform in [1 / (1 + s), 1 + s], about the
    middle. `shift` moves along either axis by at most that part of the side, `rotation_degrees`
    turns by at most that angle, either way. Rotation does not look at captions: keep it well below
    45 where these name directions.

    `colour_scale` s multiplies each channel by a factor in [1 - s, 1 + s], `colour_offset` adds to
    each channel at most that part of the full range, either way; `grey_fraction` of the images lose
    their colours before that.
    """

    scale: float = 0.0
    shift: float = 0.0
    rotation_degrees: float = 0.0
    colour_scale: float = 0.0
    colour_offset: float = 0.0
    grey_fraction: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigDict) -> "AugmentOptions":
        """Read `config.data.augment`."""
        return cls(**config.to_dict())

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return any((self.scale, self.shift, self.rotation_degrees))

    @property
    def recolours(self) -> bool:
        """Whether pixels change their levels."""
        return any((self.colour_scale, self.colour_offset, self.grey_fraction))

    @property
    def is_active(self) -> bool:
        """Whether there is any change."""
        return self.moves or self.recolours


# Features of a record that are not one text (`records.py`).
_NO_CONCEPTS = ("image", "height", "width", "captions")

# All strengths 0.
UNCHANGED = AugmentOptions()


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What training reads, and how it is varied.

    `train`, `image_only` and `text_only` are mixtures (`mixture.py`) of pairs, of pictures and of
    captions; a step gets `image_only_batch_size` and `text_only_batch_size` examples of the latter.
    `paired_fraction` below 1 keeps that random part of the pairs as pairs; where `image_only` or
    `text_only` is empty, its examples are then the pictures or captions of the rest.

    `flip` mirrors half of the pictures, but none with a caption that names left or right; `augment`
    changes pictures further, those of pairs and those without captions.
    `shuffle_captions` is a control: every picture gets another picture's captions, always the
    same one's. With `reads_concepts`, each pair has the hash of its concept, by the record's field
    `concept_field`; a record without that field has its caption's hash, and so has every record
    where the field is "". `threads` 0 stands for all cores.
    """

    train: str
    tokenizer: str
    image_size: int
    text_tokens: int
    crop_min_fraction: float = 0.5
    flip: bool = False
    augment: AugmentOptions = UNCHANGED
    shuffle_captions: bool = False
    paired_fraction: float = 1.0
    image_only: str = ""
    image_only_batch_size: int = 0
    text_only: str = ""
    text_only_batch_size: int = 0
    reads_concepts: bool = False
    concept_field: str = ""
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.paired_fraction <= 1:
            raise InputError(f"data.paired_fraction={self.paired_fraction} is not in (0, 1]")
        if self.concept_field in _NO_CONCEPTS:
            raise InputError(
                f"data.concept_field={self.concept_field} is not a text of a record: name its "
                'label or one of its metadata, or give "" to compare captions'
            )
        for key in ("image_only", "text_only"):
            named, size = getattr(self, key), getattr(self, f"{key}_batch_size")
            if size < 0:
                raise InputError(f"data.{key}_batch_size={size} is below 0")
            if named and not size:
                raise InputError(
                    f"data.{key}={named} is never read: set data.{key}_batch_size above 0"
                )
            if size and not named and self.paired_fraction == 1:
                raise InputError(
                    f"data.{key}_batch_size={size}: name its data as data.{key}, or set "
                    "data.paired_fraction below 1 to take the rest of data.train"
                )

    def examples_per_step(self, batch_size: int) -> int:
        """Of all kinds of data, beside so many pairs."""
        return batch_size + self.image_only_batch_size + self.text_only_batch_size

    @classmethod
    def from_config(cls, config: ConfigDict) -> "DataOptions":
        """The options of a run's config: its `data` section, the model's input sizes, and whether
        its objective needs concepts.
        """
        names = {field.name for field in dataclasses.fields(cls)} & set(config.data)
        sizes = {"image_size": config.model.image_size, "text_tokens": config.model.text_tokens}
        values = {name: config.data[name] for name in names}
        if "augment" in values:
            values["augment"] = AugmentOptions.from_config(values["augment"])
        objective = config.get("objective", {})
        reads_concepts = objective.get("equal_concepts_are_positives", False)
        return cls(**sizes, reads_concepts=reads_concepts, **values)
