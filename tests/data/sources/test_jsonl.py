import json

from oner_jax.data import sources
from tests.data.samples import write_jsonl


def test_parts_together_are_the_file(tmp_path):
    rows = [{"image": f"{n}.png", "caption": f"thing {n}", "colour": "red"} for n in range(7)]
    path = write_jsonl(tmp_path, [rows[0], "", *rows[1:]])
    for examples_per_part in (1, 3, 100):
        parts = sources.open_source(str(path), examples_per_part=examples_per_part)
        entries = [entry for part in parts for entry in part.read()]
        assert [e.id for e in entries] == [f"{n:08d}" for n in (1, 3, 4, 5, 6, 7, 8)]
        assert [e.captions for e in entries] == [(row["caption"],) for row in rows]
        assert entries[2].read_image() == (tmp_path / "2.png").read_bytes()
        assert entries[2].metadata == {"colour": "red"}
        assert entries[2].location == f"{path}:4"
        assert sum(part.examples for part in parts) == 7


def test_broken_lines_are_dropped_by_reason(tmp_path):
    lines = ["{image: x}", "[1]", "{}", json.dumps({"image": "none.png", "caption": "x"})]
    path = write_jsonl(tmp_path, lines)
    path.write_bytes(path.read_bytes() + b'{"caption": "caf\xe9"}\n' + b"[" * 100_000)
    (part,) = sources.open_source(str(path), examples_per_part=10)
    assert [entry.reason for entry in part.read()] == [
        sources.Reason.BROKEN_ENTRY,
        sources.Reason.BROKEN_ENTRY,
        sources.Reason.MISSING_IMAGE,
        sources.Reason.MISSING_IMAGE,
        sources.Reason.INVALID_TEXT,
        sources.Reason.BROKEN_ENTRY,
    ]
