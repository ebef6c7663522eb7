"""The exceptions that programs end with in one line."""


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


def first_line(error: object) -> str:
    """Of what an exception says, at most 300 characters; libraries add their insides."""
    text = str(getattr(error, "message", error)).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
