"""The accelerator that was asked for is the one that is used, or the program says why not.

Where a driver or a plugin does not load, JAX warns and goes on with the CPU, many times slower.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from oner_jax.errors import InputError

PLATFORMS = ("auto", "cpu", "gpu", "tpu")

_REQUIREMENTS = {
    "gpu": "ACCELERATOR=cuda12 make venv (or cuda13)",
    "tpu": "ACCELERATOR=tpu make venv",
}

# PCI ids of Google's TPUs, v3 to v7; its network cards have the same vendor.
_GOOGLE = "0x1ae0"
_TPU_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}

# Set on TPU machines by the Cloud TPU image, by GKE and by Colab.
_TPU_VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "COLAB_TPU_ADDR")


def use_platform(platform: str) -> None:
    """Choose JAX's platform: one of `PLATFORMS`. Call before JAX is used, and after
    `jax.distributed` has started.

    "auto" is what JAX finds, but not the CPU of a machine that has an accelerator. Raises
    InputError where the platform is not to be had, naming the fix.
    """
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"JAX cannot start ({reason}): --platform=cpu does without") from None
    if platform in ("gpu", "tpu") and found != platform:
        raise InputError(
            f"--platform={platform}, but JAX finds only {found}: install for it with "
            f"{_REQUIREMENTS[platform]} and see what JAX says at its start, or leave --platform out"
        )
    if platform == "auto" and found == "cpu" and (visible := visible_accelerator()):
        kind, evidence = visible
        raise InputError(
            f"this machine has a {kind.upper()} ({evidence}), but JAX finds only the CPU: install "
            f"for it with {_REQUIREMENTS[kind]}, or give --platform=cpu to do without"
        )


def visible_accelerator(
    root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> tuple[str, str] | None:
    """("gpu" or "tpu", how one sees it) for an accelerator that nobody has switched off.

    `root` is where the machine's files are found. JAX_PLATFORMS and CUDA_VISIBLE_DEVICES are how
    a user switches one off.
    """
    if environment.get("JAX_PLATFORMS"):
        return None  # whoever sets it has chosen
    for path in sorted(root.glob("sys/bus/pci/devices/*/vendor")):
        device = path.with_name("device")
        if path.read_text().strip() == _GOOGLE and device.read_text().strip() in _TPU_DEVICES:
            return "tpu", f"PCI device {path.parent.name}"
    for name in _TPU_VARIABLES:
        if environment.get(name):
            return "tpu", f"environment variable {name}"
    for path in sorted(root.glob("dev/*")):
        if re.fullmatch(r"accel\d+", path.name):
            return "tpu", f"/dev/{path.name}"
        hidden = environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if re.fullmatch(r"nvidia\d+", path.name) and not hidden:
            return "gpu", f"/dev/{path.name}"
    return None
