"""The same bytes from an Apache Beam pipeline on this machine (`make test-beam`)."""

import functools
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="has an environment of its own: make test-beam")

from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath

from oner_jax import ingest, ingest_beam
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.ingestion import ingest_flags as command_line
from oner_jax.data.ingestion.options import ConversionOptions, IngestOptions
from oner_jax.data.ingestion.staging import Staging
from oner_jax.data.sources import Dropped, Reason
from tests.data.ingestion.fakes import NAME, example, files, in_parts, make
from tests.data.samples import encoded, picture, run_program, write_jsonl
from tests.test_ingest import damaged_source

# Pictures that shrink, so that encoding is compared as well.
ENTRIES = [
    *(
        example(n, read_image=functools.partial(bytes, encoded(picture(n, 60, 90), "JPEG")))
        for n in range(30)
    ),
    Dropped("fake:30", Reason.BROKEN_ENTRY, "no JSON"),
    example(31, id="example-2"),
    example(32, captions=()),
    example(31, id="example-2", captions=("a second caption",)),
]
OPTIONS = IngestOptions(
    ConversionOptions(ImageOptions(maximum_side=40), unpaired="keep"),
    drop_duplicate_images=True,
    shard_bytes=3000,
)


def beam(parts: list, output: Path) -> None:
    runner = ingest_beam.BeamRunner(PipelineOptions([]), Staging(epath.Path(output)))
    ingest.write_dataset(parts, NAME, str(output), OPTIONS, runner)


def test_a_pipeline_gives_the_same_bytes(tmp_path):
    make(in_parts(ENTRIES, 4), tmp_path / "here", OPTIONS)
    beam(in_parts(ENTRIES, 4), tmp_path / "beam")
    assert files(tmp_path / "beam") == files(tmp_path / "here")
    assert "train/shard-00003.array_record" in files(tmp_path / "here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beam", "here"]


def test_what_one_begins_the_other_continues(tmp_path, monkeypatch):
    parts = in_parts(ENTRIES, 4, log=tmp_path / "log")

    def end(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "write_shards", end)
        with pytest.raises(KeyboardInterrupt):
            make(parts, tmp_path / "out", OPTIONS)
    beam(parts, tmp_path / "out")
    assert (tmp_path / "log").read_text().splitlines() == [part.name for part in parts]
    make(in_parts(ENTRIES, 4), tmp_path / "here", OPTIONS)
    assert (
        files(tmp_path / "out")["train/shard-00000.array_record"]
        == (files(tmp_path / "here")["train/shard-00000.array_record"])
    )


def test_the_program_counts_damage_like_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "EXAMPLES_PER_PART", 5)
    source, _ = damaged_source(tmp_path)
    arguments = [f"--source={source}", "--vocabulary_size=284", "--validation_fraction=0"]
    assert run_program(ingest, *arguments, f"--output={tmp_path}/here") == 0
    here = capsys.readouterr().out
    assert run_program(ingest_beam, *arguments, f"--output={tmp_path}/beam") == 0
    assert capsys.readouterr().out == here.replace(f"{tmp_path}/here", f"{tmp_path}/beam")
    assert files(tmp_path / "here") == files(tmp_path / "beam")


def test_bad_input_ends_in_one_line(tmp_path, capsys):
    source = write_jsonl(tmp_path, ["no json"])
    assert run_program(ingest_beam, f"--source={source}", f"--output={tmp_path}/out") == 2
    assert "error: the source holds no examples to keep" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
