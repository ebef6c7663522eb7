"""OneR in JAX: one transformer and one projection head for images, captions and both together."""

__version__ = "0.1.0"
