"""What has to be the same in all processes of a run, as text that they can compare.

Processes of other versions, source or settings compile other programs: in the best case they wait
for each other for ever, in the worst they train on with other numbers.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu"),
    *("libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt"),
)
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
# Settings of JAX, and flags of XLA, that may differ between hosts: where files lie, what is logged,
# how long is waited, which of a host's devices are this process's.
_OWN_SETTINGS = re.compile(
    "address|cache|debug|dump|explain|log_|logging|pprint|timeout|traceback|visible_devices"
)
_OWN_FLAGS = re.compile("--xla_(dump|force_host_platform_device_count|.*(cache|_file|_dir|_path))")
_SOURCE = Path(__file__).parents[1]


def facts(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return versions, a hash of this package's source, JAX's settings and flags, by name."""
    return dict(_facts(environment))


def _facts(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "Python", ".".join(platform.python_version_tuple()[:2])
    for package in PACKAGES:
        yield package, version(package) or "not installed"
    yield "source of oner_jax", _source_hash()[:12]
    for name, value in sorted(jax.config.values.items()):
        if not _OWN_SETTINGS.search(name):
            # Enumerations have other texts in other versions of Python.
            yield name, str(getattr(value, "value", value))
    for name in _VARIABLES:
        flags = [flag for flag in environment.get(name, "").split() if not _OWN_FLAGS.match(flag)]
        yield name, " ".join(sorted(flags)) or "not set"


def version(package: str) -> str | None:
    """Return the version of an installed package, else None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source_hash() -> str:
    """Unlike git's revision, also of an installed package and of files that were changed."""
    digest = hashlib.sha256()
    for path in sorted(_SOURCE.rglob("*.py")):
        digest.update(str(path.relative_to(_SOURCE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
