"""The datasets and the tokenizer that a recipe names: which are there, and what is in them."""

import dataclasses
from collections.abc import Iterator

from ml_collections import ConfigDict

from oner_jax.data.reading.kinds import KINDS, Kind
from oner_jax.data.reading.mixture import parse
from oner_jax.data.records import Split, open_split
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError

_HASH_CHARACTERS = 12


@dataclasses.dataclass(frozen=True)
class Inventory:
    """By key of the config: splits that could be opened, and why others could not.

    `kinds` says what training reads of them; None for evaluation.
    """

    splits: dict[str, Split]
    kinds: dict[str, Kind | None]
    tokenizer: Tokenizer | None
    missing: dict[str, str]

    @classmethod
    def take(cls, config: ConfigDict) -> "Inventory":
        """Opens all that `config.data` names; nothing that is missing keeps the rest from it."""
        splits, kinds, tokenizer, missing = {}, {}, None, {}
        for key, name, kind in datasets(config):
            try:
                splits[key], kinds[key] = open_split(name), kind
            except InputError as error:
                missing[key] = str(error)
        try:
            tokenizer = Tokenizer.load(config.data.tokenizer)
        except InputError as error:
            missing["data.tokenizer"] = str(error)
        return cls(splits, kinds, tokenizer, missing)

    def require_all(self) -> Tokenizer:
        """The tokenizer. Raises InputError, naming the keys, where anything is missing."""
        if self.tokenizer is None or self.missing:
            total = len(self.splits) + len(self.missing) + (self.tokenizer is not None)
            raise InputError(
                f"{len(self.missing)} of the {total} things that the recipe names cannot be used "
                f"({', '.join(self.missing)}): put them where it looks, or change its config.data"
            )
        return self.tokenizer

    def lines(self) -> Iterator[str]:
        """One for each thing, and one more for licences where the manifest has some."""
        names = [*self.splits, *self.missing, "data.tokenizer"]
        width = max(map(len, names))
        for key, split in self.splits.items():
            yield f"{key:{width}}  {_contents(split)}"
            if licences := split.manifest.get("licences"):
                listed = sorted(licences.items(), key=lambda item: -item[1])
                text = ", ".join(f"{name or 'none stated'} {count:,}" for name, count in listed)
                yield f"{'':{width}}  licences: {text}"
        if self.tokenizer is not None:
            size, code = self.tokenizer.vocabulary_size, self.tokenizer.content_hash
            yield (
                f"{'data.tokenizer':{width}}  {self.tokenizer.path}: {size:,} ids, "
                f"hash {code[:_HASH_CHARACTERS]}"
            )
        for key, problem in self.missing.items():
            yield f"{key:{width}}  MISSING: {problem}"


def datasets(config: ConfigDict) -> Iterator[tuple[str, str, Kind | None]]:
    """Keys of the config that name splits, each with a split and what training reads of it.

    Keys of a mixture's splits are numbered. Raises InputError for what is no mixture.
    """
    for kind in KINDS:
        key = f"data.{kind.key}"
        if not config.data[kind.key]:
            continue
        names, _ = parse(key, config.data[kind.key])
        for number, name in enumerate(names, start=1):
            yield (f"{key}_{number}" if len(names) > 1 else key), name, kind
    for key, name in config.data.evaluation.items():
        yield f"data.evaluation.{key}", name, None


def _contents(split: Split) -> str:
    manifest = split.manifest
    texts = [f"{split.name}: {len(split):,} records"]
    if "captions" in manifest:
        texts.append(f"{manifest['captions']:,} captions")
    texts += [f"{manifest[key]:,} {what}" for key, what in _UNPAIRED.items() if manifest.get(key)]
    stored = sum(shard["bytes"] for shard in manifest["shards"])
    return ", ".join(
        [*texts, f"{stored / 1e6:,.1f} MB", f"hash {split.content_hash[:_HASH_CHARACTERS]}"]
    )


_UNPAIRED = {"images_only": "without a caption", "texts_only": "without a picture"}
