"""The Python of a fake worker: notes how it was called, and ends as the test wants it.

`$FAKE_CLOUD/outcomes` has a word for each attempt: an exit code; `preempt`, upon which the TPU is
taken away in the middle; or `wait`, which ends with 75 at SIGTERM.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])


def main() -> int:
    if "launch.preflight" in sys.argv:
        (CLOUD / "checked").write_text(json.dumps(sys.argv[1:]))
        return int((CLOUD / "check").read_text()) if (CLOUD / "check").exists() else 0
    home = Path(os.environ["HOME"])
    who = "-".join(home.parts[-2:])
    notes = CLOUD / f"ran-{who}"
    with notes.open("a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    outcome = (CLOUD / "outcomes").read_text().split()[len(notes.read_text().splitlines()) - 1]
    print(f"training on {who}", flush=True)
    if outcome == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        time.sleep(60)
    if outcome == "preempt":
        if home.name == "0":
            (CLOUD / "state").write_text("SUSPENDED")
        os.kill(os.getppid(), signal.SIGKILL)
        return 1
    return int(outcome)


if __name__ == "__main__":
    sys.exit(main())
