"""The exceptions that programs end with in one line, and how programs end.

Exit codes: 0 done; 2 bad input (one clear line, no traceback); 75 preempted with a checkpoint
saved (75 is sysexits' EX_TEMPFAIL: "try again"); 1 other processes of the run are missing or have
failed, storage fails or training diverges (one line), or anything else (traceback shown).
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from oner_jax import streams

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 75


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: the thing and the fix."""


class ClusterError(Exception):
    """Other processes of the run are missing or do not fit. One line; trying again may help."""


class StorageError(Exception):
    """Files cannot be written or read, for a cause outside the program (a full disk, a folder that
    has gone). One line; when the cause is gone, the same command continues."""


class Diverged(Exception):
    """Training goes wrong again and again. One line; the same command would end the same."""


class Preempted(Exception):
    """The run was asked to stop and saved a checkpoint at its current step."""


def run_program(main: Callable[[Sequence[str]], None]) -> None:
    """Run `main` as an absl app, turning `InputError` and `Preempted` into their exit codes."""

    def parse(arguments: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(list(arguments))
        except InputError as error:
            _exit_bad_input(error)
        except (AttributeError, KeyError) as error:
            # How ml_collections answers an override of a key that the recipe does not have.
            _exit_bad_input("unknown config key " + " ".join(str(error.args[0]).split()))
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


def first_line(error: object) -> str:
    """Of what an exception says, at most 300 characters; libraries add their insides."""
    text = str(getattr(error, "message", error)).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


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


def _exit_bad_input(message: object) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)
