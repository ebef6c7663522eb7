"""How programs start and end.

Exit codes: 0 done; 2 bad input (one clear line, no traceback); 75 preempted with a checkpoint
saved (75 is sysexits' EX_TEMPFAIL: "try again"); 1 other processes of the run are missing or have
failed, storage fails or training diverges (one line), or anything else (traceback shown).
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from oner_jax.command_line import flag_help, path_flags, streams
from oner_jax.errors import ClusterError, Diverged, InputError, Preempted, StorageError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 75


def run_program(main: Callable[[Sequence[str]], None]) -> None:
    """Run `main` as an absl app, turning `InputError` and `Preempted` into their exit codes."""

    def parse(arguments: Sequence[str]) -> list[str]:
        if flag_help.asked_for(arguments):
            flag_help.show(main)
            sys.exit(0)
        try:
            arguments = path_flags.expanded_config(list(arguments))
            rest = flags.FLAGS(arguments)
            if unused := flag_help.unused(main):
                raise InputError(f"--{unused[0]}: this program has no such option (see --help)")
            return rest
        except InputError as error:
            _exit_bad_input(error)
        except SystemExit:
            sys.exit(0)  # after --helpfull or --helpxml, where absl ends with 1
        except (AttributeError, KeyError) as error:
            # How ml_collections answers an override of a key that the recipe does not have.
            _exit_bad_input(_unknown_key(error, arguments))
        except (flags.Error, TypeError, ValueError) as error:
            _exit_bad_input(" ".join(str(error).split()))

    def guarded_main(arguments: Sequence[str]) -> None:
        # Libraries log every stage of every save; --verbosity=0 brings that back.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
            # Orbax logs failures with their traceback before it raises them.
            logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)
        try:
            if len(arguments) > 1:
                raise InputError(
                    f"unexpected argument {arguments[1]!r}: every option is written --name=value"
                )
            path_flags.check_answers()
            main(arguments)
        except StorageError as error:
            code = report(error)
            streams.flush()
            # Threads of Orbax wait for minutes for what a failed save does not make any more.
            os._exit(code)
        except (InputError, ClusterError, Diverged, Preempted, OSError) as error:
            sys.exit(report(error))

    with streams.steadfast():
        app.run(guarded_main, flags_parser=parse)


def report(error: BaseException) -> int:
    """Say on stderr what ended the program; its exit code."""
    if isinstance(error, Preempted):
        print(error, file=sys.stderr)
        return EXIT_PREEMPTED
    if isinstance(error, InputError | ClusterError | StorageError | Diverged):
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_FAILED
    if isinstance(error, OSError) and error.filename is not None:
        # The system's own word on a file: disk full, permission denied, no such folder.
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    traceback.print_exception(error)
    return EXIT_FAILED


def _unknown_key(error: AttributeError | KeyError, arguments: Sequence[str]) -> str:
    """Return the line for a key that the recipe lacks: its path as typed, and the nearest one."""
    reason = error.args[0] if error.args else error
    # ml_collections answers with an error inside of an error: 'KEY', then "Did you mean".
    text = str(reason.args[0] if isinstance(reason, Exception) and reason.args else reason)
    found = re.match(r"'(?P<key>[^']+)'(?:\s*Did you mean \"(?P<near>[^\"]+)\")?", text)
    if inside := re.search(r"Attempting to lookup: (\S+)", text):
        return f"unknown config key {inside[1]!r}: what stands before the last dot holds a value"
    if found is None:
        return "unknown config key: " + " ".join(text.split())
    key, near = found["key"], found["near"]
    for argument in arguments:
        path = argument.lstrip("-").partition("=")[0].split(".")[1:]
        if key in path:
            before = path[: path.index(key)]
            key, near = ".".join([*before, key]), near and ".".join([*before, near])
            break
    return f"unknown config key {key!r}" + (f" (did you mean {near!r}?)" if near else "")


def _exit_bad_input(message: object) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)
