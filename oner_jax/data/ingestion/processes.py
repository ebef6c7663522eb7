"""Work on all cores: tasks done by processes that share one import of what they need."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from oner_jax.data.cores import available_cores
from oner_jax.errors import ClusterError

Task = TypeVar("Task")

# What is imported before the processes part, so that its memory and its time are spent once.
PRELOADED = ("oner_jax.data.ingestion.part_files", "oner_jax.data.ingestion.writing")

# As many are done before other processes could begin: TensorFlow takes seconds to import.
FEW_EXAMPLES = 2000

# Tasks handed out ahead, for each process: more only take memory.
_AHEAD = 4


class ProcessRunner:
    """Does tasks in so many processes (0: one a core); what is soon done, in this one."""

    def __init__(self, processes: int):
        self._processes = processes or available_cores()

    def __call__(
        self, function: Callable[[Task], object], tasks: Sequence[Task], examples: int | None
    ) -> Iterator[Task]:
        """Gives every task when it is done. ClusterError if a process dies."""
        processes = min(self._processes, len(tasks))
        if processes > 1 and (examples is None or examples > FEW_EXAMPLES):
            yield from _in_processes(function, tasks, processes)
            return
        for task in tasks:
            function(task)
            yield task


def _in_processes(
    function: Callable[[Task], object], tasks: Sequence[Task], processes: int
) -> Iterator[Task]:
    # A fork is sound only while there are no threads. NumPy's library would start some, though one
    # process a core leaves nothing for them to do.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    pool = ProcessPoolExecutor(processes, context, _end_with_parent)
    try:
        yield from _as_done(pool, function, iter(tasks), _AHEAD * processes)
    except BrokenProcessPool as error:
        raise ClusterError(
            "a process of the ingest died, perhaps for want of memory: the same command continues, "
            "with fewer --processes if need be"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _as_done(
    pool: ProcessPoolExecutor,
    function: Callable[[Task], object],
    tasks: Iterator[Task],
    ahead: int,
) -> Iterator[Task]:
    """With at most `ahead` tasks handed out."""
    running: dict[Future[object], Task] = {}
    while True:
        for task in tasks:
            running[pool.submit(function, task)] = task
            if len(running) >= ahead:
                break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            future.result()
            yield running.pop(future)


def _end_with_parent() -> None:
    """In each process: when the one that started it is gone, so is whoever wants its results."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    # A terminal sends an interrupt to all processes; only the first one has something to say.
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
