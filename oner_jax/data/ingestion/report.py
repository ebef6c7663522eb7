"""What the user is told at the end of an ingest, read from what it wrote."""

import collections
import json
import shlex
from collections.abc import Iterator
from typing import Any

from etils import epath

from oner_jax.data.ingestion import decisions, part_files
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.ingestion.writing import DROPPED_FILE
from oner_jax.data.records import MANIFEST
from oner_jax.data.sources import listed_endings

LONGEST_EXAMPLE = 150  # characters


def summary(output: epath.Path) -> Iterator[str]:
    """Yield what is in every split, what was dropped with one example of each reason, and what to
    type next."""
    manifests = {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(output.glob(f"*/{MANIFEST}"))
    }
    for name, manifest in manifests.items():
        yield f"{output / name}: {manifest['examples']:,} examples"
    source: dict[str, Any] = next(iter(manifests.values()))["source"]
    if source["joined"]:
        yield (
            f"joined {source['joined']:,} of {source['entries']:,} entries to an earlier one of "
            "the same image, which has their captions too; its other fields are those kept"
        )
    if source["renamed"]:
        yield (
            f"renamed {source['renamed']:,} examples whose id an earlier example of another image "
            "or text has (to ID~2, ID~3, ...)"
        )
    examples = _first_of_each(output) if source["dropped"] or source["dropped_captions"] else {}
    for key, what, of in (
        ("dropped", "example", f"of {source['entries']:,} entries"),
        ("dropped_captions", "caption", "of all captions"),
    ):
        counts = collections.Counter(source[key])
        if counts:
            yield f"dropped {counts.total():,} {of}; {output / DROPPED_FILE} lists them"
        for reason, count in counts.most_common():
            yield f"  {count:,} {reason}, as {examples[what, reason]}"
    if unread := source.get("unread"):
        yield f"not read, as no format is known by their endings: {listed_endings(unread)}"
    if several := source.get("captions_of_several_lines"):
        yield f"{several:,} captions have several lines; with --lines=captions each is a caption"
    if {decisions.TRAIN, decisions.VALIDATION} <= manifests.keys():
        recipe = shlex.quote(f"--config=configs/oner.py:demo,data={output}")
        yield f"next: python -m oner_jax.check {recipe}"


def reasons(staging: Staging, number_of_parts: int) -> str:
    """Why nothing was kept, as the end of a phrase: the most frequent reason, with an example."""
    losses = [
        loss
        for number in range(number_of_parts)
        for loss in part_files.read_losses(staging, number)
        if loss.what == "example"
    ]
    if not losses:
        return ""
    counts = collections.Counter(loss.reason for loss in losses)
    listed = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
    return f": {listed}, the first at {losses[0].location} ({losses[0].detail})"


def _first_of_each(output: epath.Path) -> dict[tuple[str, str], str]:
    """The first that was dropped for each reason: where it stands, and what is wrong."""
    first: dict[tuple[str, str], str] = {}
    with (output / DROPPED_FILE).open() as file:
        for line in file:
            loss = json.loads(line)
            detail = f" ({loss['detail']})" if loss["detail"] else ""
            text = (loss["location"] + detail)[:LONGEST_EXAMPLE]
            first.setdefault((loss["what"], loss["reason"]), text)
    return first
