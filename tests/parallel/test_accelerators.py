"""An accelerator is used where it was asked for or is there, or the program says why not."""

import jax
import pytest

from oner_jax.errors import InputError
from oner_jax.parallel import accelerators


def machine(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


NVIDIA = {"dev/nvidiactl": "", "dev/nvidia0": ""}
PCI = "sys/bus/pci/devices/0000:00:05.0"
TPU = {f"{PCI}/vendor": "0x1ae0\n", f"{PCI}/device": "0x0063\n"}
GOOGLE_NETWORK_CARD = {f"{PCI}/vendor": "0x1ae0\n", f"{PCI}/device": "0x0042\n"}


@pytest.mark.parametrize(
    ("files", "environment", "kind"),
    [
        (NVIDIA, {}, "gpu"),
        (NVIDIA, {"CUDA_VISIBLE_DEVICES": ""}, None),
        (NVIDIA, {"JAX_PLATFORMS": "cpu"}, None),
        ({"dev/nvidiactl": ""}, {}, None),
        ({"dev/accel0": ""}, {}, "tpu"),
        (TPU, {}, "tpu"),
        (TPU, {"JAX_PLATFORMS": "cpu"}, None),
        (GOOGLE_NETWORK_CARD, {}, None),
        ({"dev/vfio/vfio": ""}, {"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"dev/null": ""}, {}, None),
    ],
)
def test_what_a_machine_has(tmp_path, files, environment, kind):
    seen = accelerators.visible_accelerator(machine(tmp_path, files), environment)
    assert (seen and seen[0]) == kind


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_an_absent_accelerator_is_refused_with_the_fix(platform):
    with pytest.raises(InputError, match=f"ACCELERATOR={'cuda12' if platform == 'gpu' else 'tpu'}"):
        accelerators.use_platform(platform)


def test_the_cpu_of_a_machine_with_an_accelerator_is_used_only_when_asked_for(monkeypatch):
    seen = ("gpu", "/dev/nvidia0")
    monkeypatch.setattr(accelerators, "visible_accelerator", lambda: seen)
    with pytest.raises(InputError, match=r"has a GPU \(/dev/nvidia0\), but JAX finds only the CPU"):
        accelerators.use_platform("auto")
    accelerators.use_platform("cpu")
    assert jax.default_backend() == "cpu"
