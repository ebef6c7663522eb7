"""From a batch to what a step reads of it: its mosaics, then every mask of the global batch."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from oner_jax.errors import InputError
from oner_jax.models.settings import ModelSettings
from oner_jax.objectives import masking, mosaics
from oner_jax.objectives.batch import Batch, PreparedBatch, TextFormat
from oner_jax.objectives.masking import MaskedImages, MaskedWords
from oner_jax.objectives.mosaics import GROUP
from oner_jax.objectives.settings import ObjectiveSettings

# Folded into a step's key for its mosaics: beyond the small numbers that splitting it folds in.
_MOSAICS = 0x6D6F7361


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Call with a step's key and its global batch.

    `mosaic_fraction` of the pairs become mosaics (`mosaics.py`). `image_mask_fraction` and
    `word_mask_fraction` are 0 where no term rebuilds pixels or words: nothing is hidden then.
    Raises InputError for a fraction that no aligned group of pairs can hold.
    """

    settings: ObjectiveSettings
    model: ModelSettings
    text: TextFormat
    _: dataclasses.KW_ONLY
    mosaic_fraction: float
    image_mask_fraction: float
    word_mask_fraction: float

    def __post_init__(self) -> None:
        if not (self.mosaic_fraction * GROUP).is_integer():
            whole = int(self.mosaic_fraction * GROUP)
            raise InputError(
                f"data.mosaic_fraction={self.mosaic_fraction} is not a multiple of 1/{GROUP}: "
                f"choose {whole / GROUP} or {(whole + 1) / GROUP}"
            )

    def __call__(self, key: Key[Array, ""], batch: Batch) -> PreparedBatch:
        """Draw the mosaics and masks of the global batch: one mask for images, two independent
        ones for words.

        Pictures and captions that stand alone have masks of their own.
        """
        batch, is_mosaic = self._with_mosaics(jax.random.fold_in(key, _MOSAICS), batch)
        image_key, word_key, joint_key = jax.random.split(key, 3)
        rows = batch.text.shape[0]
        word_start = jnp.asarray(self.text.word_start)

        def words(key: Key[Array, ""], text: Int[Array, "n length"]) -> MaskedWords:
            if self.word_mask_fraction == 0:
                none = jnp.zeros((len(text), 0), jnp.int32)
                return MaskedWords(text, none, none, none.astype(jnp.float32))
            return masking.draw_word_mask(
                key,
                text,
                word_start,
                mask_id=self.text.mask_id,
                fraction=self.word_mask_fraction,
            )

        def patches(key: Key[Array, ""], rows: int) -> Bool[Array, "n patches"]:
            return masking.draw_patch_mask(
                key,
                rows,
                self.model.patches_per_side,
                self.settings.image_mask_block_patches,
                self.image_mask_fraction,
            )

        hashes, pictures, captions = batch.caption_hash, batch.image_only, batch.text_only
        return PreparedBatch(
            image=batch.image,
            text=batch.text,
            caption_hash=hashes,
            patch_mask=patches(image_key, rows),
            words=words(word_key, batch.text),
            joint_words=words(joint_key, batch.text),
            row=jnp.arange(rows),
            image_only=None
            if pictures is None
            else MaskedImages(
                pictures, patches(jax.random.fold_in(image_key, 1), pictures.shape[0])
            ),
            text_only=None
            if captions is None
            else words(jax.random.fold_in(word_key, 1), captions),
            concept_hash=batch.concept_hash,
            is_mosaic=is_mosaic,
        )

    def _with_mosaics(
        self, key: Key[Array, ""], batch: Batch
    ) -> tuple[Batch, Bool[Array, "b"] | None]:
        """The batch as its rows are contrasted, and which of them are mosaics."""
        hashes, concepts = batch.caption_hash, None
        if not self.settings.mask_equal_captions:
            hashes = jnp.zeros_like(hashes)
        if self.settings.equal_concepts_are_positives:
            concepts = batch.concept_hash
            if concepts is None:
                raise ValueError("equal concepts are positives, but the batch has no concepts")
        if not self.mosaic_fraction:
            return batch._replace(caption_hash=hashes, concept_hash=concepts), None
        made = mosaics.compose(
            key,
            batch.image,
            batch.text,
            hashes,
            concepts,
            fraction=self.mosaic_fraction,
            joiner=self.text.joiner,
        )
        batch = batch._replace(
            image=made.image,
            text=made.text,
            caption_hash=made.captions,
            concept_hash=made.concept,
        )
        return batch, made.is_mosaic
