"""What a notebook begins with: the accelerator that was chosen works, or what to do about it.

    from launch.colab import session

    session.start("tpu", colab=True)  # on Colab it also installs what the project needs
    session.Page("runs/tiny/report/index.html")

Needs Python alone, because on Colab it comes before the installation. JAX is asked in a process of
its own: a process that has used a TPU keeps it, so that programs started by the notebook would not
get it, and a JAX that is loaded before the installation stays the old one.
"""

import html
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ANSWER_SECONDS = 180  # a TPU takes some ten of them to start

# What JAX calls them in JAX_PLATFORMS, what Colab calls them, and what they are installed by.
_PLATFORMS = {"tpu": ("tpu",), "gpu": ("cuda", "gpu"), "cpu": ("cpu",)}
_RUNTIMES = {"tpu": "v5e-1 TPU", "gpu": "T4 GPU", "cpu": "CPU"}
_REQUIREMENTS = {
    "tpu": ("requirements.txt", "requirements-tpu.txt"),
    "gpu": ("requirements.txt", "requirements-cuda12.txt"),
    "cpu": ("requirements.txt",),
}
_MAKE = {
    "tpu": "ACCELERATOR=tpu make venv",
    "gpu": "ACCELERATOR=cuda12 make venv",
    "cpu": "make venv",
}
_RUN_ALL = "then Runtime > Run all"

# "The TPU is already in use by process with pid 4711." says libtpu; of its device, the kernel.
_HELD = re.compile(r"already in use|resource busy", re.IGNORECASE)
_HOLDER = re.compile(r"\bpid (\d+)")


class NotReady(Exception):
    """What stands in the way, and the fix, in one line; a notebook shows no more than that."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [f"Not ready: {self}"]


def start(accelerator: str, *, colab: bool) -> None:
    """Check that JAX works on the accelerator; on Colab, install before, and check before that.

    A wrong runtime is told of before anything is installed. Raises NotReady, naming the fix.
    """
    if accelerator not in _PLATFORMS:
        raise NotReady(f"ACCELERATOR is {', '.join(_PLATFORMS)}, not {accelerator!r}")
    if accelerator == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"  # also on a machine that has something better
    if colab:
        if problem := explain(accelerator, ask(accelerator), colab=True, installed=False):
            raise NotReady(problem)
        _install(accelerator)
    answer = ask(accelerator)
    if problem := explain(accelerator, answer, colab=colab):
        raise NotReady(problem)
    print(f"JAX {answer['jax']} on {len(answer['devices'])} x {answer['devices'][0]}")


class Page:
    """A page that holds everything it shows (a report, an overview), as a cell's last value.

    In a frame of its own, so that its style does not reach the notebook.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def _repr_html_(self) -> str:  # Jupyter asks for it
        content = html.escape(self.path.read_text())
        return f'<iframe srcdoc="{content}" width="100%" height="800" style="border:0"></iframe>'


def ask(accelerator: str) -> dict[str, Any]:
    """What a new process finds that insists on the accelerator: see `_answer`."""
    environment = os.environ | {
        "JAX_PLATFORMS": _PLATFORMS[accelerator][0],
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a GPU may be shared, its memory too
    }
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "launch.colab.session"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"devices": [], "failure": f"no answer within {ANSWER_SECONDS} s", "visible": None}
    lines = asked.stdout.splitlines()
    if asked.returncode == 0 and lines:
        return json.loads(lines[-1])
    last = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
    return {"devices": [], "failure": last, "visible": None}


def explain(
    accelerator: str,
    answer: Mapping[str, Any],
    *,
    colab: bool,
    installed: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """What is wrong with an answer of `ask`, and the fix; "" where nothing is.

    Not yet `installed`: what the installation may repair is not wrong.
    """
    name = accelerator.upper()
    failure, visible = answer["failure"], answer["visible"]
    if answer["devices"]:
        chosen = environment.get("JAX_PLATFORMS", "")
        if not chosen or set(chosen.split(",")) & set(_PLATFORMS[accelerator]):
            return ""
        # On Colab that is what `start` did when the CPU was chosen before.
        fix = f"Runtime > Restart session, {_RUN_ALL}" if colab else "start Jupyter without it"
        return f"JAX_PLATFORMS={chosen} keeps JAX from the {name}: {fix}"
    if _HELD.search(failure):
        return _held(name, _HOLDER.search(failure))
    if accelerator != "cpu" and answer.get("jax") and (visible or [""])[0] != accelerator:
        there = f"a {visible[0].upper()} but no {name}" if visible else f"no {name}"
        if colab:
            fix = f"Runtime > Change runtime type > {_RUNTIMES[accelerator]}, {_RUN_ALL}"
            return f"this runtime has {there}: {fix} (JAX says: {failure})"
        return f"this machine has {there}: choose another ACCELERATOR in the first cell"
    if not installed:
        return ""
    files = " ".join(f"--requirement={file}" for file in _REQUIREMENTS[accelerator])
    fix = f"%pip install --upgrade {files}" if colab else f"{_MAKE[accelerator]} in {ROOT}"
    return f"JAX does not work on the {name} ({failure}): {fix}, then restart the session"


def _held(name: str, holder: re.Match[str] | None) -> str:
    if holder is None:
        return (
            f"another process holds the {name}: Runtime > Restart session ends those of this "
            "notebook; !lsof -w /dev/accel* /dev/vfio/* names others"
        )
    process = int(holder[1])
    if process == os.getpid():
        return (
            f"this notebook holds the {name} itself, so that programs which it starts cannot have "
            f"it: Runtime > Restart session, {_RUN_ALL}"
        )
    return f"process {process} holds the {name}: wait until it has ended, or !kill {process}"


def _install(accelerator: str) -> None:
    print("Installing: some minutes the first time", flush=True)
    before = loaded_versions()
    files = [f"--requirement={file}" for file in _REQUIREMENTS[accelerator]]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *files]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise NotReady(f"the installation failed; in a cell: %pip install {' '.join(files)}")
    importlib.invalidate_caches()
    if changed := [name for name, was in before.items() if metadata.version(name) != was]:
        raise NotReady(
            f"this session has loaded {', '.join(sorted(changed))} in another version than is now "
            f"installed: Runtime > Restart session, {_RUN_ALL} (what is installed stays)"
        )


def loaded_versions() -> dict[str, str]:
    """The installed version of every package of which this process has loaded a module."""
    owners = metadata.packages_distributions()
    names = {owner for module in tuple(sys.modules) for owner in owners.get(module, ())}
    return {name: metadata.version(name) for name in names}


def _answer() -> dict[str, Any]:
    """Kinds of the devices that JAX finds or its failure, its version, and the machine's own
    accelerator as (kind, how one sees it)."""
    import jax

    from oner_jax.parallel.accelerators import visible_accelerator

    devices, failure = [], ""
    try:
        devices = [device.device_kind for device in jax.devices()]
    except (RuntimeError, AssertionError) as error:  # the latter where there is no plugin
        failure = " ".join(str(error).split()) or "JAX has no plugin for it"
    # Whoever asks has set JAX_PLATFORMS for this process.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    visible = visible_accelerator(environment=environment)
    return {"devices": devices, "failure": failure, "visible": visible, "jax": jax.__version__}


if __name__ == "__main__":
    print(json.dumps(_answer()))
