"""`--help` of every program: all of its own flags, none of a library's, exit code 0."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.programs import Programs
from tests.marks import slow

ROOT = Path(__file__).parents[2]
DEFINITION = re.compile(
    r"(?:flags\.DEFINE_\w+|path_flags\.define(?:_list)?|define_recipe)\(\s*\"(\w+)\""
)
# Modules that define flags for several programs, and those programs.
SHARED = {
    "oner_jax/parallel/distributed.py": ("train", "evaluate", "bench"),
    "oner_jax/indexing/embedding_flags.py": ("embed", "search", "demo_page"),
    "oner_jax/data/ingestion/ingest_flags.py": ("ingest", "ingest_beam"),
}
# Flags of the shared modules that a program leaves out.
LEFT_OUT = {"demo_page": {"source", "source_format", "view"}}
# The names of these flags are computed.
COMPUTED = {"data/ingestion": {"maximum_side", "minimum_side", "minimum_caption_characters"}}
PROGRAMS = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for folder in ("oner_jax", "launch")
    for path in (ROOT / folder).rglob("*.py")
    if "run_program(main" in path.read_text() and path.name != "program.py"
)


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    server = Programs()
    yield server
    server.close()


@pytest.fixture
def helped(programs: Programs, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """What a program prints when it is asked with these arguments, and its exit code."""

    def run(module: str, *arguments: str) -> tuple[int, str]:
        log = tmp_path / "log"
        code = programs.run(module, arguments, log=log, lock=tmp_path / "lock")
        return code, log.read_text()

    return run


def defined_in(*files: str) -> set[str]:
    """The names of flags that these files define, by their text."""
    found: set[str] = set()
    for file in files:
        found |= set(DEFINITION.findall((ROOT / file).read_text()))
        found |= {name for part, names in COMPUTED.items() if part in file for name in names}
    return found


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_lists_the_flags_of_the_program_and_no_others(helped, module):
    code, text = helped(module, "--help")
    assert code == 0, text
    short = module.removeprefix("oner_jax.")
    shared = [file for file, programs in SHARED.items() if short in programs]
    wanted = defined_in(module.replace(".", "/") + ".py", *shared) - LEFT_OUT.get(short, set())
    listed = set(re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE))
    assert wanted <= listed
    assert not listed & {"tt_check_filter", "logtostderr", "delta_threshold", "array_record_index"}
    assert "num_processes" not in listed - wanted
    assert "<" not in re.sub(r".*\nOptions:", "", text, flags=re.DOTALL), "absl's own choices"


def test_every_program_of_ours_is_among_them():
    assert {"oner_jax.train", "oner_jax.ingest_beam", "launch.sweep"} <= set(PROGRAMS)


@pytest.mark.parametrize("option", ["-h", slow("-?"), slow("--helpshort"), "--helpfull"])
def test_every_way_to_ask_ends_with_0(helped, option):
    code, text = helped("oner_jax.plan", option)
    assert code == 0
    assert "topology" in text


def test_a_flag_of_another_program_is_refused(helped):
    code, text = helped("oner_jax.embed", "--platform=cpu", "--source=photos", "--output=x")
    assert code == 2
    assert text.strip() == "error: --platform: this program has no such option (see --help)"


@pytest.mark.parametrize("reader", ["| head -n 1", ">&-"])
def test_help_may_be_cut_short(reader):
    command = shlex.join([sys.executable, "-m", "oner_jax.plan", "--help"])
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {reader}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        slow("batch_siz=3", "unknown config key 'batch_siz' (did you mean 'batch_size'?)"),
        ("model.widht=3", "unknown config key 'model.widht' (did you mean 'model.width'?)"),
        slow("model.tower.depth=3", "unknown config key 'model.tower'"),
        ("batch_size.x=3", "unknown config key 'batch_size.x'"),
    ],
)
def test_an_unknown_key_is_named_as_typed(helped, override, message):
    code, text = helped("oner_jax.plan", "--config=configs/oner.py:tiny", f"--config.{override}")
    assert code == 2
    assert text.strip().splitlines()[-1].startswith(f"error: {message}")
    assert "\\n" not in text


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("oner_jax.ingest_beam", "apache_beam"),
        ("oner_jax.evals.clip_benchmark", "clip_benchmark"),
    ],
)
def test_a_program_without_its_extra_says_what_to_install(helped, module, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    code, text = helped(module, "--source=x", "--output=y")
    assert code == 2
    assert text.startswith("error: ")
    assert "pip install" in text
    assert len(text.strip().splitlines()) == 1
