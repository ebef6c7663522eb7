"""OneR in JAX: one transformer and one projection head for images, captions and both together."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oner_jax.api import Localization, Model, TruncatedTexts, load
    from oner_jax.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "Localization", "Model", "TruncatedTexts", "load"]


def __getattr__(name: str) -> Any:
    """The API, imported when first asked for: using a part of the package takes no more."""
    if name == "InputError":  # also for what needs no model
        from oner_jax.errors import InputError

        return InputError
    if name in __all__:
        from oner_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the API, and what has been imported already."""
    return sorted({*globals(), *__all__})
