"""Scalars for TensorBoard, through clu: each step once, also where a run was continued."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

_EVENTS = "events.out.tfevents."


class TensorBoard:
    """Writes event files into `workdir`; nothing where TensorFlow is not installed.

    Earlier files keep their steps beyond `first_step`, as event files only grow. TensorBoard drops
    them at the mark of a session that starts anew.
    """

    def __init__(self, workdir: epath.Path, first_step: int):
        self._workdir = workdir
        self._writer = self._open(first_step)

    def write(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Write scalars in the background; raises what writing before has raised."""
        if self._writer is not None:
            self._writer.write_scalars(step, dict(metrics))

    def go_back_to(self, step: int) -> None:
        """Drop what was written of later steps."""
        self.close()
        self._writer = self._open(step)

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, first_step: int) -> Any:
        try:
            from clu import metric_writers
        except ImportError:
            return None
        names = [path.name for path in self._workdir.iterdir()]
        if earlier := [name for name in names if name.startswith(_EVENTS)]:
            _wait_for_a_later_name(earlier)
            _mark_start(self._workdir, first_step + 1)
        return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(self._workdir)))


def _wait_for_a_later_name(names: Sequence[str]) -> None:
    """Files are read in the order of their names, which begin with the second they are made in."""
    seconds = [name.removeprefix(_EVENTS).partition(".")[0] for name in names]
    newest = max((int(text) for text in seconds if text.isdigit()), default=0)
    time.sleep(min(1.0, max(0.0, newest + 1 - time.time())))


def _mark_start(workdir: epath.Path, step: int) -> None:
    """Write that a session starts at `step`, in a file that is read before those to come."""
    import tensorflow as tf

    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    with tf.Graph().as_default(), tf.compat.v1.summary.FileWriter(str(workdir)) as writer:
        for _ in range(2):  # TensorBoard takes the first in a folder for the run's own beginning
            writer.add_session_log(start, step)
