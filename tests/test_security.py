"""What is read from strangers runs no code: by the source's own text, and by trying."""

import ast
import io
import os
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oner_jax.data.sources import open_source

ROOT = Path(__file__).parents[1]
# The program's own tasks for its own workers, in a folder that SECURITY.md speaks of.
OWN_PICKLES = {"oner_jax/ingest_beam.py"}
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
EXTRACTORS = {"extract", "extractall", "unpack_archive"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("oner_jax", "configs", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {name.name.split(".")[0] for name in node.names}
    if isinstance(node, ast.ImportFrom) and node.module:
        return {node.module.split(".")[0]}
    return set()


def offences(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        yield from sorted(imported(node) & UNPICKLERS)
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in EXTRACTORS:
            yield name
        called = ast.unparse(node.func)
        if called in ("yaml.load", "yaml.unsafe_load", "torch.load"):
            yield called
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                yield "allow_pickle"


def test_nothing_unpickles_or_extracts():
    found = {name: list(offences(tree)) for name, tree in sources()}
    assert {name for name, what in found.items() if what} == OWN_PICKLES
    assert all(set(found[name]) == {"pickle"} for name in OWN_PICKLES)


@pytest.mark.parametrize(
    "code",
    ["import pickle", "torch.load(f)", "np.load(f, allow_pickle=True)", "t.extractall()"],
)
def test_the_search_would_find(code):
    assert list(offences(ast.parse(code)))


class Exploit:
    """Unpickling it makes a file."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_an_archive_of_pickles_paths_and_links_does_nothing(tmp_path, monkeypatch):
    proof, outside = tmp_path / "proof", tmp_path / "outside"
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = inside / "0.tar"
    exploit = pickle.dumps(Exploit(proof))
    with tarfile.open(archive, "w") as tar:
        for name in ("a.pyd", "a.pickle", "a.pth", f"../{outside.name}.jpg", "/b.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(exploit)
            tar.addfile(member, io.BytesIO(exploit))
        link = tarfile.TarInfo("c.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(inside)
    for part in open_source(str(archive), examples_per_part=10):
        list(part.read())
    assert sorted(tmp_path.rglob("*")) == before
    assert not proof.exists()
