"""What of a recipe decides how training data are read."""

import dataclasses

from ml_collections import ConfigDict

from oner_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What training reads, and how it is varied.

    `flip` mirrors half of the pictures, but none with a caption that names left or right.
    `shuffle_captions` is a control: every picture gets another picture's captions, always the
    same one's. `threads` 0 stands for all cores.

    `paired_fraction` below 1 keeps that random part of the examples as pairs. Of the rest every
    step gets `text_only_batch_size` captions without their pictures.
    """

    train: str
    tokenizer: str
    image_size: int
    text_tokens: int
    crop_min_fraction: float = 0.5
    flip: bool = False
    shuffle_captions: bool = False
    paired_fraction: float = 1.0
    text_only_batch_size: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.paired_fraction <= 1:
            raise InputError(f"data.paired_fraction={self.paired_fraction} is not in (0, 1]")
        if self.text_only_batch_size and self.paired_fraction == 1:
            raise InputError(
                f"data.text_only_batch_size={self.text_only_batch_size} takes captions of examples "
                "that are not pairs: set data.paired_fraction below 1"
            )

    def number_of_pairs(self, number_of_examples: int) -> int:
        """How many examples of a split are trained on as pairs, at least one."""
        return max(1, round(self.paired_fraction * number_of_examples))

    @classmethod
    def from_config(cls, config: ConfigDict) -> "DataOptions":
        """The options of a run's config: its `data` section, and the model's input sizes."""
        names = {field.name for field in dataclasses.fields(cls)} & set(config.data)
        sizes = {"image_size": config.model.image_size, "text_tokens": config.model.text_tokens}
        return cls(**sizes, **{name: config.data[name] for name in names})
