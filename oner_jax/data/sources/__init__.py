"""Sources of other people's data: `open_source` finds the reader for what the user names."""

from oner_jax.data.sources.raw import Dropped, Part, RawExample, Reason

__all__ = ["Dropped", "Part", "RawExample", "Reason"]
