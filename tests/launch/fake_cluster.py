"""A cluster that records: copied into a folder of the PATH as kubectl, docker and xpk.

`$FAKE_CLUSTER` holds `calls` (one JSON list a call), `applied` (the manifest) and what the test put
there: `states`, the JobSet's state at each look, `-` while it runs.
"""

import json
import os
import sys
from pathlib import Path

CLUSTER = Path(os.environ["FAKE_CLUSTER"])


def get(path: str) -> int:
    if "message" in path:
        print("jobset failed due to one or more job failures")
        return 0
    left = (CLUSTER / "states").read_text().split()
    if not left or left[0] == "absent":
        print("Error from server (NotFound): jobsets not found", file=sys.stderr)
    else:
        print(left[0].strip("-"))
    (CLUSTER / "states").write_text(" ".join(left[1:]))
    return int(not left or left[0] == "absent")


def main() -> int:
    call = [Path(sys.argv[0]).name, *sys.argv[1:]]
    with (CLUSTER / "calls").open("a") as calls:
        calls.write(json.dumps(call) + "\n")
    if call[1:2] == ["apply"]:
        (CLUSTER / "applied").write_text(sys.stdin.read())
    if call[1:2] == ["get"]:
        return get(call[-1])
    if call[1:2] == ["logs"]:
        print("a line of the log")
    return int((CLUSTER / call[0]).exists())


if __name__ == "__main__":
    sys.exit(main())
