"""A process of a run that comes to nothing: what tests start several of."""

import time

import jax
from absl import flags

from oner_jax.errors import InputError, run_program
from oner_jax.parallel import distributed

ROLE = flags.DEFINE_enum("role", "well", ["well", "fails", "crashes", "differs"], "What to do.")


def main(_):
    with distributed.session():
        last = jax.process_index() == jax.process_count() - 1
        if ROLE.value == "differs":
            distributed.check_equal({"seed": 7 if last else 0, "batch_size": 4})
        if ROLE.value == "fails" and last:
            raise InputError("record 9 cannot be decoded")
        if ROLE.value == "crashes" and not last:
            raise ZeroDivisionError("on process 0")
        if ROLE.value != "well":
            time.sleep(60)  # in the place of a collective operation that never ends
        distributed.wait_for_all("middle")
        print(f"{jax.process_index()} of {jax.process_count()}, {jax.device_count()} devices")


if __name__ == "__main__":
    run_program(main)
