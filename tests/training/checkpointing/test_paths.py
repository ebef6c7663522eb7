"""Checkpoints under any path that a file system allows: read back, or refused before a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from oner_jax import files
from oner_jax.errors import InputError, StorageError
from oner_jax.training import storage
from oner_jax.training.checkpointing import checkpoints as checkpoints_module
from oner_jax.training.checkpointing import schema as items
from oner_jax.training.checkpointing.checkpoints import Checkpoints
from oner_jax.training.checkpointing.policy import CheckpointPolicy
from oner_jax.training.guards import init_guard
from oner_jax.training.step import TrainState
from tests import small

POLICY = CheckpointPolicy(interval_steps=1, keep=10)
REFUSED = set("[*?\\")
# Every character up to code 255, and some above: other scripts, separators, beyond 16 bits.
CHARACTERS = [chr(code) for code in range(1, 256) if chr(code) != "/"]
CHARACTERS += list("日本ﬀ\u2028\U0001f600")


def state(number: int) -> TrainState:
    guard = init_guard(small.GUARD)
    return TrainState(jnp.int32(number), {"w": jnp.full(3, number)}, {}, {"m": jnp.zeros(3)}, guard)


def read_back(folder) -> float:
    """What a checkpoint of 7 holds, by a manager that did not write it."""
    folder.mkdir(parents=True)
    with Checkpoints(folder, POLICY) as checkpoints:
        checkpoints.save(1, state(7), {"step": 1})
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state(0)
    )
    with Checkpoints(folder, POLICY) as checkpoints:
        step = checkpoints.last_good()
        assert step == 1
        restored, position = checkpoints.restore(step, abstract)
    assert position == {"step": 1}
    return float(np.asarray(restored.parameters["w"])[0])


def is_refused(path) -> bool:
    try:
        storage.orbax_path(path)
    except InputError:
        return True
    return False


def test_every_character_of_a_file_name_is_read_back_or_refused(tmp_path):
    """In the folder's own name and in a parent's; names hold up to 255 bytes."""
    allowed = [one for one in CHARACTERS if not is_refused(tmp_path / f"a{one}b")]
    assert set(CHARACTERS) - set(allowed) == REFUSED
    for first in range(0, len(allowed), 100):
        name = "".join(allowed[first : first + 100])
        assert read_back(tmp_path / f"x{name}x" / name) == 7


@pytest.mark.parametrize("name", ["~", "-x", " x", "x ", "$HOME", "%20", "{a,b}", "gs", "1", "#"])
def test_names_that_shells_and_libraries_read_otherwise(tmp_path, name):
    assert read_back(tmp_path / name / "run") == 7


@pytest.mark.parametrize("name", ["run[1]", "run*", "a\\b", "gs:", "s3:", "caf\udce9"])
@pytest.mark.parametrize("where", ["{}", "{}/run"])
def test_a_path_under_which_checkpoints_are_lost_is_refused(tmp_path, name, where):
    with pytest.raises(InputError, match="choose another folder, or name a symbolic link"):
        Checkpoints(tmp_path / where.format(name), POLICY)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_such_a_folder_serves(tmp_path):
    (tmp_path / "proj [2]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "proj [2]")
    assert read_back(tmp_path / "link" / "run") == 7


def test_what_a_restore_could_not_read_is_not_sealed(tmp_path, monkeypatch):
    """Orbax itself takes a checkpoint under this path for finished."""
    monkeypatch.setattr(checkpoints_module, "orbax_path", files.absolute)
    folder = tmp_path / "run[1]"
    folder.mkdir()
    with Checkpoints(folder, POLICY) as checkpoints:
        checkpoints.save(1, state(7), {"step": 1})
        with pytest.raises(StorageError, match=r"1 was written to .*, but it cannot be read"):
            checkpoints.wait()
        assert checkpoints.steps() == []


def test_a_checkpoint_that_lacks_an_item_is_not_sealed(tmp_path, monkeypatch):
    unreadable = items.unreadable

    def lose_one(folder, wanted):
        (folder / "optimizer").rmtree()
        return unreadable(folder, wanted)

    monkeypatch.setattr(items, "unreadable", lose_one)
    with Checkpoints(tmp_path, POLICY) as checkpoints:
        checkpoints.save(1, state(7), {"step": 1})
        with pytest.raises(StorageError, match=r"1 was written to .*, but it cannot be read"):
            checkpoints.wait()


def test_addresses_on_object_storage_stay_as_they_are():
    """`resolve` would make a folder of the address."""
    for path in ("gs://bucket/run", epath.Path("gs://bucket/run")):
        assert str(files.absolute(path)) == "gs://bucket/run"
        assert str(storage.orbax_path(path)) == "gs://bucket/run"
    with pytest.raises(InputError):
        storage.orbax_path("gs://bucket/run[1]")
