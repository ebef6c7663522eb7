"""What the user of an ingest chooses. Imports nothing heavy: programs read it before they start."""

import dataclasses
import hashlib
from collections.abc import Sequence

import PIL

import oner_jax
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.image_formats import known_formats
from oner_jax.data.ingestion.staging import Plan
from oner_jax.data.sources.raw import Part
from oner_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is left out though it is whole. 0 filters nothing.

    `minimum_side` (pixels, of the shorter side) and `maximum_aspect` (longer side over shorter)
    judge an image as it is in the source. Captions are judged one by one, by their characters.
    """

    minimum_side: int = 0
    maximum_aspect: float = 0.0
    minimum_caption_characters: int = 0
    maximum_caption_characters: int = 10_000

    def check(self) -> None:
        """Raises InputError if nothing could pass."""
        if 0 < self.maximum_aspect < 1:
            raise InputError(
                f"--maximum_aspect={self.maximum_aspect}: it is the longer side over the shorter; "
                "give at least 1, or 0 for any"
            )
        if 0 < self.maximum_caption_characters < self.minimum_caption_characters:
            raise InputError(
                f"--minimum_caption_characters={self.minimum_caption_characters}: more than "
                f"--maximum_caption_characters={self.maximum_caption_characters}; give less"
            )


@dataclasses.dataclass(frozen=True)
class ConversionOptions:
    """What is made of one entry, whatever the others are.

    `unpaired` is "drop" or "keep": an image without a caption, and captions without an image, are
    left out, or become records, too.
    """

    images: ImageOptions = dataclasses.field(default_factory=ImageOptions)
    filters: Filters = dataclasses.field(default_factory=Filters)
    unpaired: str = "drop"


@dataclasses.dataclass(frozen=True)
class IngestOptions:
    """All of it. `vocabulary_size` 0 trains no tokenizer.

    `drop_duplicate_images`: of images whose files are equal, byte for byte, the first one is kept.
    """

    conversion: ConversionOptions = dataclasses.field(default_factory=ConversionOptions)
    drop_duplicate_images: bool = False
    validation_fraction: float = 0.05
    vocabulary_size: int = 0
    shard_bytes: int = 256 * 2**20

    def plan(self, parts: Sequence[Part]) -> Plan:
        """What an unfinished ingest must agree on with the one that continues it.

        The tokenizer is no part of it: it is made last.
        """
        source = hashlib.sha256()
        for part in parts:
            source.update(repr(part).encode(errors="backslashreplace"))
        conversion = dataclasses.asdict(self.conversion)
        settings = {**conversion.pop("images"), **conversion.pop("filters"), **conversion}
        return Plan(
            conversion={
                "source": source.hexdigest(),
                "version of oner_jax": oner_jax.__version__,
                "version of Pillow": PIL.__version__,  # another one may encode to other bytes
                "choice of image formats": " ".join(known_formats()),
                **{f"--{name}": value for name, value in settings.items()},
            },
            decisions={
                "--drop_duplicate_images": self.drop_duplicate_images,
                "--validation_fraction": self.validation_fraction,
                "--shard_megabytes": self.shard_bytes / 2**20,
            },
        )


@dataclasses.dataclass(frozen=True)
class SourceName:
    """What the manifest calls the source: its name without the folder it lies in, its format."""

    name: str
    format: str
