"""A process of a run that comes to nothing: what tests start several of."""

import time

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from oner_jax.command_line.program import run_program
from oner_jax.errors import InputError
from oner_jax.parallel import distributed
from oner_jax.parallel.mesh import AXES, LocalRows, make_mesh, replicated
from oner_jax.training import workdir

ROLES = ("well", "rows", "fails", "crashes", "differs", "shares", "shares not")
ROLE = flags.DEFINE_enum("role", "well", ROLES, "What to do.")
FOLDER = flags.DEFINE_string("folder", "", "Where to hold a workdir.")


def put_batches_together():
    """Over meshes on which a process's rows are not its share in order."""
    values = np.arange(48).reshape(16, 3)
    for sizes in ((1, -1, 1, 1), (1, 1, 2, 2), (1, 1, 1, 4)):
        mesh = make_mesh(dict(zip(AXES, sizes, strict=True)), jax.devices()[::-1])
        rows = LocalRows(mesh, 16)
        batch = rows.globally(values[rows.numbers])
        whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(batch)
        np.testing.assert_array_equal(whole, values)
        print(f"{sizes}: rows {rows.numbers[0]} to {rows.numbers[-1]}")


def hold(folder):
    """A workdir; shared, or of the same name on disks of their own."""
    workdir._SEEN_SECONDS = 1.0
    own = folder if ROLE.value == "shares" else f"{folder}/{jax.process_index()}"
    with workdir.hold_workdir(epath.Path(own), ConfigDict({"seed": 0}), {}):
        print("held")


def main(_):
    with distributed.session():
        last = jax.process_index() == jax.process_count() - 1
        if ROLE.value == "differs":
            distributed.check_equal({"seed": 7 if last else 0, "batch_size": 4})
        if ROLE.value == "fails" and last:
            raise InputError("record 9 cannot be decoded")
        if ROLE.value == "crashes" and not last:
            raise ZeroDivisionError("on process 0")
        if ROLE.value == "rows":
            put_batches_together()
        elif ROLE.value.startswith("shares"):
            hold(FOLDER.value)
        elif ROLE.value != "well":
            time.sleep(60)  # in the place of a collective operation that never ends
        distributed.wait_for_all("middle")
        for place in range(2):
            mine = [jax.process_index(), place] if place or last else []
            print(f"gathered {distributed.gathered(f'places/{place}', mine)}")
        print(f"{jax.process_index()} of {jax.process_count()}, {jax.device_count()} devices")


if __name__ == "__main__":
    run_program(main)
