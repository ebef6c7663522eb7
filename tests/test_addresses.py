"""Paths and addresses: in every program and in the API, used, or refused in one line."""

import importlib
import io
import os
import sys
from pathlib import Path

import fsspec
import pytest
from absl import flags
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

import oner_jax
from oner_jax import embed, files, ingest
from oner_jax.command_line import path_flags
from oner_jax.command_line.recipe_files import RecipeParser
from oner_jax.data import records
from oner_jax.data import tokenizer as text
from oner_jax.data.ingestion.options import IngestOptions, SourceName
from oner_jax.data.ingestion.processes import ProcessRunner
from oner_jax.data.sources import open_source
from oner_jax.errors import InputError
from oner_jax.files import Access, usable
from tests.data.ingestion.fakes import files as files_below
from tests.data.samples import encoded, picture, run_program
from tests.data.sources import written
from tests.data.sources.test_formats import WRITERS
from tests.data.sources.written import compared, expected, read


class FakeS3(MemoryFileSystem):
    """A file system in memory whose paths are those of s3fs: bucket/key, without a slash first."""

    protocol = "s3"
    store: dict = {}  # noqa: RUF012  MemoryFileSystem has one for all
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + os.fspath(path).removeprefix("s3://").strip("/")


@pytest.fixture
def s3(monkeypatch):
    """s3:// is this, and its package is there."""
    FakeS3.store.clear()
    FakeS3.pseudo_dirs[:] = [""]
    monkeypatch.setitem(files._PACKAGES, "s3", ())
    fsspec.register_implementation("s3", FakeS3, clobber=True)
    FakeS3.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield fsspec.filesystem("s3")
    importlib.import_module("fsspec.registry")._registry.pop("s3")
    backend.fsspec_backend._get_filesystem.cache_clear()


def uploaded(s3: MemoryFileSystem, folder: Path, address: str) -> None:
    """Copy a folder into the fake."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.pipe_file(f"{address}/{path.relative_to(folder)}", path.read_bytes())


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"tfrecord", "records", "tfds"}))
def test_sources_on_s3_are_read_like_local_ones(tmp_path, kind, s3):
    examples = written.examples()
    source = WRITERS[kind](tmp_path / "data", examples)
    uploaded(s3, tmp_path / "data", "s3://bucket/data")
    address = str(source).replace(f"{tmp_path}/data", "s3://bucket/data")
    found = read(address, examples_per_part=7)
    assert list(map(compared, found)) == list(map(expected, examples))


def test_what_only_tensorflow_reads_is_refused_in_one_line(tmp_path, s3):
    written.write_tfrecord(tmp_path / "data", written.examples())
    uploaded(s3, tmp_path / "data", "s3://bucket/data")
    with pytest.raises(InputError, match=r"s3://bucket/data: cannot be read \(.*'s3' not impl"):
        open_source("s3://bucket/data", examples_per_part=7)


def test_an_ingest_from_s3_to_s3_has_the_bytes_of_a_local_one(tmp_path, s3):
    written.write_jsonl(tmp_path / "data", written.examples())
    uploaded(s3, tmp_path / "data", "s3://bucket/data")
    for source, output in (
        (f"{tmp_path}/data/pairs.jsonl", f"{tmp_path}/out"),
        ("s3://bucket/data/pairs.jsonl", "s3://bucket/out"),
    ):
        parts = open_source(source, examples_per_part=7)
        name = SourceName("pairs.jsonl", "jsonl")
        ingest.write_dataset(parts, name, output, IngestOptions(), ProcessRunner(1))
    there = {path.removeprefix("/bucket/out/"): s3.cat(path) for path in s3.find("s3://bucket/out")}
    assert there == files_below(tmp_path / "out")
    assert not s3.exists("s3://bucket/.out.partial")


def test_an_export_on_s3_is_a_model(s3):
    uploaded(s3, oner_jax.api.RELEASED, "s3://bucket/model")
    model = oner_jax.load("s3://bucket/model")
    s3.pipe_file("s3://bucket/a.png", encoded(picture(0), "PNG"))
    found = model.embed(images="s3://bucket/a.png")
    assert (found == oner_jax.load().embed(images=picture(0))).all()


REFUSED = {
    "ftp://host/x": "ftp:// is not known; give a path, or an address of gs://",
    "file:///x": "give the path, /x",
    "az://container/x": "pip install adlfs",
}


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_lead_nowhere(address, access, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        usable(address, access)
    if address.startswith("az") and access in (Access.GS, Access.LOCAL):
        assert "has to be on this machine" in str(error.value)
    else:
        assert REFUSED[address] in str(error.value)
    assert "\n" not in str(error.value)


def test_what_may_lead_where():
    for access in Access:
        assert usable("a/b", access) == "a/b"
        assert usable("embedded:train", access) == "embedded:train"
    allowed = {
        scheme: {access.name for access in Access if _is_usable(f"{scheme}://a/b", access)}
        for scheme in ("gs", "https")
    }
    assert allowed["gs"] == {"READ", "STORE", "GS"}
    assert allowed["https"] <= {"READ"}


def _is_usable(address: str, access: Access) -> bool:
    try:
        return bool(usable(address, access))
    except InputError:
        return False


class NoAnswer(FakeS3):
    """What a file system without network does."""

    def info(self, path, **kwargs):
        raise ConnectionResetError("connection reset\nby peer")

    exists = isdir = ls = find = _open = cat_file = info


API = {
    "load": lambda address: oner_jax.load(address),
    "embed": lambda address: oner_jax.load().embed(images=[address]),
    "tokenizer": lambda address: text.Tokenizer.load(address),
    "source": lambda address: open_source(address, examples_per_part=1),
    "split": lambda address: records.open_split(address),
}


@pytest.mark.parametrize("function", API)
@pytest.mark.parametrize("address", ["s3://bucket/x", "ftp://host/x", "hf://datasets/a/b"])
def test_the_api_raises_one_exception(function, address, s3, monkeypatch):
    fsspec.register_implementation("s3", NoAnswer, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.setitem(files._PACKAGES, "hf", ("no_such_package",))
    with pytest.raises(InputError) as error:
        API[function](address)
    assert address in str(error.value)
    assert "\n" not in str(error.value)


def test_programs_ask_for_an_answer_before_anything_else(s3, capsys, tmp_path):
    fsspec.register_implementation("s3", NoAnswer, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    for flag in ("--source=s3://bucket/x", f"--source={tmp_path}"):
        out = "s3://bucket/out" if str(tmp_path) in flag else tmp_path / "out"
        assert run_program(ingest, flag, f"--output={out}") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "cannot be reached (connection reset); check the address" in error
        assert not (tmp_path / "out").exists()


# Flags of programs that are texts and lead nowhere.
NO_PATHS = {
    *("average", "caption_field", "coordinator_address", "format", "host", "id_field"),
    *("image_field", "launcher", "only", "pipeline_options", "seeds", "splits", "step", "steps"),
    *("tasks", "templates", "text", "topology"),
}


def test_every_flag_that_is_a_path_is_defined_as_one():
    """In a process of its own, or other tests' programs would count."""
    folders = [Path(oner_jax.__file__).parent, Path(oner_jax.__file__).parents[1] / "launch"]
    calls = [
        (path.name, line.partition("(")[2].partition(",")[0].strip(' "\n'))
        for folder in folders
        for path in folder.rglob("*.py")
        for line in path.read_text().split("flags.DEFINE_")[1:]
        if line.startswith(("string(", "list(", "multi_string("))
    ]
    assert calls
    assert {name for _, name in calls} <= NO_PATHS


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_tilde_is_the_users_home(home, capsys):
    written.write_jsonl(home / "data", written.examples())
    arguments = ["--source=~/data/pairs.jsonl", "--output=~/out", "--processes=1"]
    assert run_program(ingest, *arguments) == 0
    assert (home / "out" / "train").is_dir()
    assert str(home / "out") in capsys.readouterr().out
    assert not Path("~").exists()
    assert len(records.open_split("~/out/train")) == 24
    assert usable("~/x") == str(home / "x")
    # In the recipe's path and in overrides of what is in it.
    given = ["train", "--config=~/recipe.py:tiny", "--config.data.train=~/a,~/b", "--x=~/y"]
    expanded = path_flags.expanded_config(given)
    assert expanded[1:3] == [f"--config={home}/recipe.py:tiny", f"--config.data.train={home}/a,~/b"]
    with pytest.raises(InputError, match=f"there is no file {home}/recipe.py"):
        RecipeParser("config").parse(expanded[1].removeprefix("--config="))
    values = flags.FlagValues()
    holder = path_flags.define_list("paths", [], "", flag_values=values)
    values(["program", "--paths=~/a,b,~/c"])
    assert holder.value == [f"{home}/a", "b", f"{home}/c"]


def folder_of_odd_name(tmp_path: Path) -> str:
    """Pictures with texts in a folder whose name is not UTF-8."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for number in range(3):
        with open(folder + b"/%d.png" % number, "wb") as file:
            file.write(encoded(picture(number), "PNG"))
        with open(folder + b"/%d.txt" % number, "wb") as file:
            file.write(b"thing %d" % number)
    return os.fsdecode(folder)


def test_names_that_are_not_utf8(tmp_path, capsys):
    source = folder_of_odd_name(tmp_path)
    out, rows = tmp_path / "out", tmp_path / "rows"
    assert run_program(ingest, f"--source={source}", f"--output={out}", "--processes=1") == 0
    assert sum(len(records.open_split(str(path))) for path in out.iterdir()) == 3
    assert run_program(embed, f"--source={source}", f"--output={rows}") == 0
    from oner_jax.indexing.index import Index

    assert [Path(row.image).read_bytes() for row in Index(rows).rows] == [
        encoded(picture(number), "PNG") for number in range(3)
    ]
    table = f"--output={tmp_path / 'table'}"
    assert run_program(embed, f"--source={source}", table, "--format=parquet") == 0
    capsys.readouterr()
    assert run_program(ingest, f"--source={tmp_path}", f"--output={source}-out") == 2
    assert r"caf\xe9-out: the name is not UTF-8" in capsys.readouterr().err


def test_what_programs_print_may_be_no_text(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="utf-8"))

    class Program:
        """Prints a name."""

        __name__ = "program"

        @staticmethod
        def define_flags() -> None:
            """None."""

        @staticmethod
        def main(_) -> None:
            """Print it."""
            print("caf\udce9", flush=True)

    assert run_program(Program) == 0  # type: ignore[arg-type]
    assert printed.getvalue() == b"caf\\udce9\n"
