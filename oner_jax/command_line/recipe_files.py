"""Files of Python that users write: recipes (`--config`) and sweeps. What fails in them is named by
file and line."""

import contextlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict, config_flags

from oner_jax.errors import InputError, first_line

# Sections of a config in which a command line may set names that the recipe does not have.
_OPEN_SECTIONS = ("data.evaluation",)
_PROJECT = Path(__file__).parents[1]


def define_recipe(name: str, explanation: str) -> "flags.FlagHolder[ConfigDict]":
    """Define the flag of a recipe and of the overrides of its keys."""
    holder = config_flags.DEFINE_config_file(name, None, explanation)
    flags.FLAGS[name].parser = RecipeParser(name)
    return holder


class RecipeParser(flags.ArgumentParser):
    """Makes the locked config of `FILE.py[:argument]`."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def parse(self, argument: str) -> ConfigDict:
        """Return the config. Raises InputError, with file and line, for whatever fails in it."""
        path, *rest = argument.split(":", 1)
        module = load(path, f"--{self.name}={argument}", "get_config")
        with explained(path):
            config = module.get_config(*rest)
        if not isinstance(config, ConfigDict):
            kind = type(config).__name__
            raise InputError(f"{path}: get_config returned {kind}, not a ConfigDict")
        for section in _OPEN_SECTIONS:
            _add_names(config, self.name, section)
        return config.lock()

    def flag_type(self) -> str:
        """Return what help calls the value."""
        return "recipe"


def load(path: str, given: str, function: str) -> ModuleType:
    """Import a file that has to define `function`; `given` is how the user named it.

    The file may import what lies beside it, what its folder's parent holds, and `configs`.
    """
    specification = importlib.util.spec_from_file_location(Path(path).stem, path)
    if not Path(path).is_file():
        raise InputError(f"{given}: there is no file {path}")
    if specification is None or specification.loader is None:
        raise InputError(f"{given}: {path} is not a Python file")
    folder = Path(path).resolve().parent
    for place in map(str, (folder, folder.parent, _PROJECT)):
        if place not in sys.path:
            sys.path.append(place)
    module = importlib.util.module_from_spec(specification)
    with explained(path):
        specification.loader.exec_module(module)
    if not hasattr(module, function):
        raise InputError(f"{given}: {path} has no {function}(argument)")
    return module


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Raise InputError for what a user's file raises: `FILE, line N: KIND: what`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever people write
        place = _place(error, path)
        raise InputError(f"{place}: {type(error).__name__}: {first_line(error)}") from error


def _place(error: Exception, path: str) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}, line {error.lineno}"
    own = str(Path(path).resolve())
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if str(Path(frame.filename).resolve()) == own
    ]
    return f"{path}, line {lines[-1]}" if lines else path


def _add_names(config: ConfigDict, flag: str, section: str) -> None:
    """Give a section the names that this command line sets there; the flags then fill them."""
    place = config
    for key in section.split("."):
        if not isinstance(place, ConfigDict) or key not in place:
            return
        place = place[key]
    for argument in sys.argv[1:]:
        found = re.match(rf"--?{flag}\.{re.escape(section)}\.([^=.]+)", argument)
        if found and found[1] not in place:
            with place.unlocked():
                place[found[1]] = ""
