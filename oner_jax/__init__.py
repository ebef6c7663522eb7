"""OneR in JAX: one transformer and one projection head for images, captions and both together."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oner_jax.api import Localization, Model, load

__version__ = "0.1.0"
__all__ = ["Localization", "Model", "load"]


def __getattr__(name: str) -> Any:
    """The API, imported when first asked for: using a part of the package takes no more."""
    if name in __all__:
        from oner_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
