"""A Cloud TPU of folders: every worker has a home, in which commands really run.

Copied into a folder of the PATH as `gcloud`. `$FAKE_CLOUD` holds its state: `calls` (one JSON list
a call), `state` (of the queued resource; no file, no resource), `homes/NODE/WORKER`, and what tests
put there: `outcomes`, what training does, attempt by attempt, and `check`, the exit code of checks.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
WORKERS = 2

# In the place of a worker's `make` and of the Python that it would install.
MAKE = """#!/bin/bash -e
mkdir -p .venv/bin && cp "$FAKE_CLOUD/python" .venv/bin/python
echo "make $*" >>"$HOME/made"
"""


def _option(name: str, default: str = "") -> str:
    found = [word for word in sys.argv if word.startswith(f"--{name}=")]
    return found[0].partition("=")[2] if found else default


def _nodes() -> list[str]:
    count = int(_option("node-count", "0"))
    prefix = _option("node-prefix")
    return [f"{prefix}-{n}" for n in range(count)] or [_option("node-id")]


def create() -> None:
    shutil.rmtree(CLOUD / "homes", ignore_errors=True)
    for node in _nodes():
        for worker in range(WORKERS):
            (CLOUD / "homes" / node / str(worker)).mkdir(parents=True)
    (CLOUD / "state").write_text("WAITING_FOR_RESOURCES")


def describe(kind: str, name: str) -> int:
    state = CLOUD / "state"
    if not state.exists():
        print("ERROR: NOT_FOUND: Resource not found", file=sys.stderr)
        return 1
    text = state.read_text()
    if kind == "tpu-vm":
        print("READY" if text == "ACTIVE" else "PREEMPTED")
    else:
        print(text)
        # Resources come with the next look.
        state.write_text("ACTIVE" if text == "WAITING_FOR_RESOURCES" else text)
    return 0


def _homes(node: str) -> list[Path]:
    homes = sorted((CLOUD / "homes" / node).iterdir())
    worker = _option("worker", "0")
    return homes if worker == "all" else [homes[int(worker)]]


def ssh(node: str) -> int:
    running = []
    for home in _homes(node):
        own = home / "bin"
        own.mkdir(exist_ok=True)
        for name, text in (("make", MAKE), ("python3.12", "#!/bin/bash\n")):
            (own / name).write_text(text)
            (own / name).chmod(0o755)
        environment = os.environ | {"HOME": str(home), "PATH": f"{own}:{os.environ['PATH']}"}
        command = ["bash", "-c", _option("command")]
        running.append(subprocess.Popen(command, cwd=home, env=environment))
    return next((code for code in [each.wait() for each in running] if code), 0)


def scp(source: str, target: str) -> None:
    node, _, name = target.partition(":")
    for home in _homes(node):
        shutil.copy(source, home / name)


def main() -> int:
    call = sys.argv[1:]
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps(call) + "\n")
    assert call[:2] == ["compute", "tpus"]
    kind, verb, *names = [word for word in call[2:] if not word.startswith("--")]
    # Each call is a process, and those at the same time write to the same file.
    assert re.fullmatch(r"queued-resources|tpu-vm", kind)
    if verb == "create":
        create()
    elif verb == "describe":
        return describe(kind, names[0])
    elif verb == "delete":
        (CLOUD / "state").unlink()
    elif verb == "ssh":
        return ssh(names[0])
    elif verb == "scp":
        scp(*names)
    else:
        raise AssertionError(call)
    return 0


if __name__ == "__main__":
    sys.exit(main())
