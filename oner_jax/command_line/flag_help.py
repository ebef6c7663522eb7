"""`--help` of the programs: the flags of the program, by group, without those of libraries."""

import contextlib
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

HELP = ("--help", "-help", "--helpshort", "-helpshort", "-h", "-?")

_OWN = ("oner_jax.", "launch.")
_OPTIONS = "Options"
_FIRST_COLUMN = 30
_WIDEST = 100

# Flag -> the heading under which it is listed.
_GROUPS: dict[str, str] = {}


@contextlib.contextmanager
def group(title: str) -> Iterator[None]:
    """List the flags that are defined inside under this title."""
    before = set(flags.FLAGS)
    yield
    _GROUPS.update({name: title for name in flags.FLAGS if name not in before})


def asked_for(arguments: Sequence[str]) -> bool:
    """Return whether this command line asks for help."""
    options = arguments[1:]
    options = options[: options.index("--")] if "--" in options else options
    return any(option in HELP for option in options)


def show(main: Callable[..., Any]) -> None:
    """Print the help of the program that `main` belongs to; a reader may leave early."""
    try:
        print(describe(main, columns=min(_WIDEST, shutil.get_terminal_size().columns)), flush=True)
    except BrokenPipeError:
        sys.stdout = None  # nothing is left to flush when the interpreter ends


def describe(main: Callable[..., Any], *, columns: int) -> str:
    """Return the program's docstring and its flags, each with what it takes and its default."""
    parts = [(_globals(main).get("__doc__") or "").strip()]
    by_group: dict[str, list[flags.Flag]] = {}
    for flag in own_flags(main):
        by_group.setdefault(_GROUPS.get(flag.name, _OPTIONS), []).append(flag)
    # The program's own options come before those that it shares with others.
    for title in sorted(by_group, key=lambda title: title != _OPTIONS):
        lines = [_described(flag, columns) for flag in by_group[title]]
        parts.append("\n".join([f"{title}:", *lines]))
    if any(flag.name == "config" for flag in own_flags(main)):
        parts.append("--config.KEY=VALUE overrides a key of the recipe.")
    parts.append("--verbosity=0 shows what libraries log; --helpfull lists their flags, too.")
    return "\n\n".join(filter(None, parts))


def own_flags(main: Callable[..., Any]) -> list[flags.Flag]:
    """Return the flags of the program that `main` belongs to, in the order of their definition.

    These are the flags of its module and of those modules of ours that it names. Other modules
    are imported by way of these, and the program does not read their flags.
    """
    own = _globals(main)
    named = {
        getattr(value, "__name__" if type(value) is type(sys) else "__module__", None)
        for value in own.values()
    }
    modules = {name for name in named if isinstance(name, str) and name.startswith(_OWN)}
    # absl files the flags of a script under its path.
    modules.add(sys.argv[0] if main.__module__ == "__main__" else main.__module__)
    by_module = flags.FLAGS.flags_by_module_dict()
    found = {flag.name for name in modules for flag in by_module.get(name, ())}
    return [flags.FLAGS[name] for name in flags.FLAGS if name in found]


def _globals(main: Callable[..., Any]) -> dict[str, Any]:
    """Return the names of the program's module.

    Not those of `sys.modules["__main__"]`: where one program runs another by `runpy`, that is the
    one that runs it.
    """
    return inspect.unwrap(main).__globals__


def unused(main: Callable[..., Any]) -> list[str]:
    """Return the flags of ours on this command line that the program of `main` does not read."""
    own = {flag.name for flag in own_flags(main)}
    return [
        flag.name
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        for flag in defined
        if module.startswith(_OWN) and flag.present and flag.name not in own
    ]


def _described(flag: flags.Flag, columns: int) -> str:
    """Return the flag's entry: what to type, what it means, the choices and the default."""
    choices = list(getattr(flag.parser, "enum_values", ()))
    typed = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}={_kind(flag)}"
    # absl puts the choices of an enum before its help.
    notes = [re.sub(r"^<.*?>: ", "", flag.help or "").strip()]
    if choices:
        notes.append(f"One of: {', '.join(filter(None, choices))}.")
    if flag.default not in (None, "", False, []):
        notes.append(f"Default: {flag.default_as_str.strip(chr(39))}.")
    notes[0] = notes[0][:1].upper() + notes[0][1:]
    text = " ".join(
        note if note.endswith((".", "?", ")")) else f"{note}." for note in notes if note
    )
    indent = " " * _FIRST_COLUMN
    head = f"  {typed}  ".ljust(_FIRST_COLUMN)
    if len(head) > _FIRST_COLUMN:
        head = f"  {typed}\n{indent}"
    lines = textwrap.wrap(text, max(30, columns - _FIRST_COLUMN), break_on_hyphens=False)
    return head + f"\n{indent}".join(lines)


def _kind(flag: flags.Flag) -> str:
    kinds = {"int": "NUMBER", "float": "NUMBER", "string enum": "NAME"}
    if flag.name == "config":
        return "FILE.py[:ARGUMENT]"
    if "list" in flag.flag_type():
        return "A,B"
    return kinds.get(flag.flag_type(), "TEXT")
