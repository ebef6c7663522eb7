"""Flags that are paths: in every program `~` is written out and addresses are judged alike."""

import os
from typing import Any

from absl import flags

from oner_jax.errors import InputError
from oner_jax.files import Access, check_reachable, is_remote, split_names, usable

# Flags that are defined here belong to the module that asked for them: `--help` lists them there.
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser):
    def __init__(self, name: str, access: Access):
        super().__init__()
        self._name = name
        self._access = access

    def parse(self, argument: str) -> str:
        """Return the path as `usable` does. InputError, naming the flag, where it is none."""
        return _usable(self._name, argument, self._access)


class _PathsParser(flags.ListParser):
    """A list with commas, in which folders whose names have commas stay whole."""

    def __init__(self, name: str, access: Access):
        super().__init__()
        self._name = name
        self._access = access

    def parse(self, argument: str | list[str]) -> list[str]:
        """Return each path as `usable` does. InputError, naming the flag, where one is none."""
        given = argument if isinstance(argument, list) else split_names(argument)
        return [_usable(self._name, path, self._access) for path in given if path]


def define(
    name: str, default: str | None, help_text: str, access: Access = Access.READ, **options: Any
) -> flags.FlagHolder[Any]:
    """Define a flag that is a path, used as `access` says."""
    parser, serializer = _PathParser(name, access), flags.ArgumentSerializer()
    return flags.DEFINE(parser, name, default, help_text, serializer=serializer, **options)


def define_list(
    name: str, default: list[str], help_text: str, access: Access = Access.READ, **options: Any
) -> flags.FlagHolder[Any]:
    """Define a flag that is a list of paths with commas between them."""
    parser, serializer = _PathsParser(name, access), flags.CsvListSerializer(",")
    return flags.DEFINE(parser, name, default, help_text, serializer=serializer, **options)


def check_answers() -> None:
    """Raise InputError, naming the flag, unless storage answers for every address that is given."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.parser, _PathParser | _PathsParser) and flag.present:
            values = flag.value if isinstance(flag.value, list) else [flag.value]
            for value in filter(None, values):
                if is_remote(value):
                    _named(name, check_reachable, value)


def expanded_config(arguments: list[str]) -> list[str]:
    """Return a command line with `~` written out in the recipe's path and in overrides of it."""
    expanded = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_config = name.lstrip("-").partition(".")[0] == "config" and name.startswith("-")
        if is_config and equals and value.startswith("~"):
            argument = f"{name}={os.path.expanduser(value)}"
        expanded.append(argument)
    return expanded


def _usable(flag: str, path: str, access: Access) -> str:
    found: str = _named(flag, usable, path, access)
    if access is not Access.READ or is_remote(found):
        try:
            found.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(found).decode(errors="backslashreplace")
            raise InputError(f"--{flag}={shown}: the name is not UTF-8; give another") from None
    return found


def _named(flag: str, function: Any, path: str, *more: Any) -> Any:
    try:
        return function(path, *more)
    except InputError as error:
        raise InputError(f"--{flag}={error}") from error.__cause__
