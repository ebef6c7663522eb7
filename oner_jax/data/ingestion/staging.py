"""The folder beside the output in which an ingest is made, and from which a killed one continues.

    .NAME.partial/
      plan.json         what is being made of what; another plan is refused
      parts/            every converted part: its records, a table of them, what was dropped
      decisions.json    what was decided about all parts together; written before the first shard
      shards/           facts about every finished shard
      output/           what becomes the output by one rename
      complete.json     nothing is left to do but that
      unfinished/       files being written

A file appears under its name when it is whole, so what is there need not be made again. Remote
storage cannot rename a folder: there, `output/` is the output itself, and as a split is a folder
with a manifest, the manifests come last.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from oner_jax.errors import InputError
from oner_jax.files import held_folder, is_remote

_COPIED_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an ingest makes of what: values by option, or by what else they are.

    Parts are converted as `conversion` says, and must be converted anew for another one;
    `decisions` says what is then made of them.
    """

    conversion: Mapping[str, Any]
    decisions: Mapping[str, Any]

    @property
    def everything(self) -> dict[str, Any]:
        """Both."""
        return {**self.conversion, **self.decisions}


@dataclasses.dataclass(frozen=True)
class Staging:
    """Where the files of an ingest into `output` are, and how they come there. Picklable."""

    output: epath.Path

    @property
    def folder(self) -> epath.Path:
        """All of it."""
        return self.output.parent / f".{self.output.name}.partial"

    @property
    def finished(self) -> epath.Path:
        """The files of the output, as long as it is not published."""
        return self.output if self.is_remote else self.folder / "output"

    @property
    def is_remote(self) -> bool:
        """Whether it lies in a bucket, where renaming and locking are not to be had."""
        return is_remote(self.output)

    def records(self, part: int) -> epath.Path:
        """The serialised records of a part, one behind the other."""
        return self.folder / "parts" / f"{part:06d}.records"

    def rows(self, part: int) -> epath.Path:
        """A table of a part's records. Written last: the part is done if it is there."""
        return self.folder / "parts" / f"{part:06d}.rows.parquet"

    def dropped(self, part: int) -> epath.Path:
        """What became no record in a part."""
        return self.folder / "parts" / f"{part:06d}.dropped.jsonl"

    def shard_facts(self, split: str, shard: int) -> epath.Path:
        """What the manifest says of a shard. Written last: the shard is done if it is there."""
        return self.folder / "shards" / split / f"{shard:05d}.json"

    @property
    def decisions(self) -> epath.Path:
        """What holds for all shards; they can no longer be made of other options."""
        return self.folder / "decisions.json"

    @property
    def _plan(self) -> epath.Path:
        return self.folder / "plan.json"

    @property
    def _complete(self) -> epath.Path:
        return self.folder / "complete.json"

    @property
    def _unfinished(self) -> epath.Path:
        return self.folder / "unfinished"

    @contextlib.contextmanager
    def whole_file(self, path: epath.Path) -> Iterator[Path]:
        """A local file to write; it becomes `path` when the block ends well, and only then."""
        if self.is_remote:
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / path.name
                yield local
                path.parent.mkdir(parents=True, exist_ok=True)
                # Not epath's copy, which takes both paths to be where the first one is.
                with local.open("rb") as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, _COPIED_BYTES)
            return
        local = Path(self._unfinished) / f"{path.name}-{os.getpid()}"
        yield local
        with local.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave a name without its content
        path.parent.mkdir(parents=True, exist_ok=True)
        local.replace(path)

    def write_json(self, path: epath.Path, content: Any) -> None:
        """Writes readable JSON, whole or not at all."""
        with self.whole_file(path) as local:
            local.write_text(json.dumps(content, indent=1) + "\n")

    @contextlib.contextmanager
    def begun(self, plan: Plan) -> Iterator[None]:
        """Holds the folder, new or as a killed ingest of the same plan left it.

        InputError if the output is there, if another ingest holds the folder, or if it holds
        another plan.
        """
        self._refuse_existing_output()
        with self._held():
            if self.is_complete and not _differences(self._complete, plan.everything):
                yield
                return
            if self.is_complete:
                self.publish(plan)
            self._refuse_existing_output()  # by now, another may have finished it
            for file, options in (self._plan, plan.conversion), (self.decisions, plan.decisions):
                if file.exists() and (differences := _differences(file, options)):
                    raise InputError(
                        f"--output={self.output}: {self.folder} is an unfinished ingest of another "
                        f"kind ({differences}); give its options again to continue it, or delete it"
                        " to begin anew"
                    )
            self.write_json(self._plan, plan.conversion)
            yield

    def _refuse_existing_output(self) -> None:
        if self.is_complete:
            return
        taken = self.output.exists()
        if self.is_remote:  # what a killed ingest left there is no reason
            taken = any(self.output.glob("*/manifest.json")) and not self._plan.exists()
        if taken:
            with contextlib.suppress(
                OSError
            ):  # left, with nothing in it, by a kill at the very end
                self.folder.rmdir()
            raise InputError(f"--output={self.output}: exists already; give a new directory")
        if not self.is_remote and not self.output.parent.is_dir():
            raise InputError(
                f"--output={self.output}: {self.output.parent} is no directory; make it first"
            )

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Makes the folder and locks it; the lock goes with the process, however that ends."""
        if self.is_remote:
            yield
            return
        with held_folder(Path(self.folder), f"--output={self.output}", "ingest"):
            shutil.rmtree(self._unfinished, ignore_errors=True)
            Path(self._unfinished).mkdir()
            yield

    @property
    def is_complete(self) -> bool:
        """Whether `publish` is all that is left to do."""
        return self._complete.exists()

    def publish(self, plan: Plan) -> None:
        """What is finished becomes the output, and the folder goes. A kill may interrupt it."""
        if not self.is_complete:
            self.write_json(self._complete, plan.everything)
        if self.finished.exists() and not self.is_remote:
            self.finished.rename(self.output)
        for path in self.folder.iterdir():
            if path != self._complete:
                path.rmtree() if path.is_dir() else path.unlink()
        self._complete.unlink()
        self.abandon()

    def abandon(self) -> None:
        """Deletes the folder: nothing in it is worth continuing."""
        if self.folder.exists():  # a bucket has no empty folders
            self.folder.rmtree()


def _differences(file: epath.Path, plan: Mapping[str, Any]) -> str:
    """What is not the same in the plan that is in `file`; empty if all is."""
    before = json.loads(file.read_text())
    shown = []
    for key in sorted({*before, *plan}):
        if before.get(key) != plan.get(key):
            is_option = key.startswith("--")
            shown.append(f"{key}={before.get(key)} there" if is_option else f"another {key}")
    return ", ".join(shown)
