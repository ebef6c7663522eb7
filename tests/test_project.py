"""The project's own files: declared requirements, and how `make` refuses an unfit interpreter."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def declared(*files: str) -> list[Requirement]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith((" ", "#"))]


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def undeclared_imports(folders: list[str], requirements: set[str]) -> set[str]:
    """Modules that none of the packages in `requirements` brings."""
    modules = set()
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    foreign = modules - set(sys.stdlib_module_names) - {"oner_jax", "configs", "launch", "tests"}
    # A package that is not installed here has modules of its own name, all but one.
    owners = {module: [module] for module in foreign} | {"faiss": ["faiss-cpu"]}
    owners |= dict(packages_distributions())
    return {
        module
        for module in foreign
        if not requirements & {canonicalize_name(owner) for owner in owners[module]}
    }


def test_every_import_is_declared():
    programs = names(
        declared(
            "requirements.txt",
            *(
                f"requirements-{extra}.txt"
                for extra in ("beam", "clip_benchmark", "heif", "onnx", "page", "search")
            ),
        )
    )
    assert undeclared_imports(["oner_jax", "configs", "launch"], programs) == set()
    development = names(declared("requirements-dev.txt", "requirements-page-dev.txt"))
    assert undeclared_imports(["tests"], programs | development) == set()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-lowest.lock"])
def test_the_locks_pin_every_requirement_within_its_range(lock: str):
    pins = declared(lock)
    for requirement in declared("requirements.txt", "requirements-dev.txt"):
        versions = [
            specifier.version
            for pin in pins
            if names([pin]) == names([requirement])
            for specifier in pin.specifier
        ]
        assert versions, f"{lock} lacks {requirement.name}: run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), requirement


@pytest.mark.parametrize(
    ("interpreter", "complaint"),
    [
        ("exit 127", "does not run"),
        ('case "$*" in *version_info*) exit 1;; *python_version*) echo 3.9.2;; esac', "3.9.2"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "sudo apt install python3-venv"),
    ],
)
def test_make_refuses_an_unfit_interpreter(tmp_path: Path, interpreter: str, complaint: str):
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{interpreter}\n")
    python.chmod(0o755)
    command = ["make", "venv", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "error:" in result.stderr
    assert complaint in result.stderr
    assert not (tmp_path / "venv").exists()


def test_files_that_the_documentation_names_are_there():
    """A move that the pages do not follow sends readers nowhere."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RESULTS.md", "SECURITY.md")]
    named = {
        (page.name, path)
        for page in (*pages, *ROOT.glob("docs/*.md"), ROOT / "launch" / "README.md")
        for path in re.findall(
            r"(?:oner_jax|tests|configs|launch|docs)/[\w/.-]+\.(?:py|md|json|png)", page.read_text()
        )
    }
    assert len(named) > 50
    assert {(page, path) for page, path in named if not (ROOT / path).exists()} == set()


def test_the_code_map_lists_every_module():
    listed = re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "docs/code-map.md").read_text(), re.M)
    there = [
        path.name
        for path in (ROOT / "oner_jax").rglob("*.py")
        if path.name != "__init__.py"
        and "released" not in path.parts
        and "kept for one release" not in path.read_text()
    ]
    assert sorted(listed) == sorted(there)
