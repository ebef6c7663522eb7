"""The one exception for bad input, and how programs end.

Exit codes: 0 done; 2 bad input (one clear line, no traceback); 75 preempted with a checkpoint
saved (75 is sysexits' EX_TEMPFAIL: "try again"); 1 anything else (traceback shown).
"""

import sys
from collections.abc import Callable, Sequence

from absl import app

EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 75


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: the thing and the fix."""


class Preempted(Exception):
    """The run was asked to stop and saved a checkpoint at its current step."""


def run_program(main: Callable[[Sequence[str]], None]) -> None:
    """Run `main` as an absl app, turning `InputError` and `Preempted` into their exit codes."""

    def guarded_main(arguments: Sequence[str]) -> None:
        try:
            if len(arguments) > 1:
                raise InputError(
                    f"unexpected argument {arguments[1]!r}: every option is written --name=value"
                )
            main(arguments)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        except Preempted as error:
            print(str(error), file=sys.stderr)
            sys.exit(EXIT_PREEMPTED)

    app.run(guarded_main)
