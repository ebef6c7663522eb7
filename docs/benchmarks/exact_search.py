"""Retrieval among many features beside the bare product, on this machine's CPU.

    python docs/benchmarks/exact_search.py [--rows=100000] [--width=256] [--queries=N]

Ranks of `rows` queries among as many items, or the ten best of every query (`--what=best`), as
evaluation computes them; beside them the products alone, in chunks of the same size and in turn.
Rates are by the wall clock, and by the process's CPU time, which other programs on the machine
disturb less. Peak memory is the process's.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from oner_jax.evals.metrics.exact_search import MAXIMUM_SCORES, best_of
from oner_jax.evals.metrics.ranking import Matches, best_ranks


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=0, help="only so many; default: all rows")
    parser.add_argument("--what", choices=("ranks", "best"), default="ranks")
    options = parser.parse_args()
    rows, width = options.rows, options.width
    random = np.random.default_rng(0)
    queries, gallery = (random.normal(size=(rows, width)).astype(np.float32) for _ in range(2))
    matches = Matches.from_pairs(np.arange(rows), np.arange(rows), rows)

    def products(number):
        """Chunks of the same size, in turn with what is measured so that both see one machine."""
        chunk = min(number, MAXIMUM_SCORES // rows)
        held = jax.device_put(gallery)
        product = jax.jit(lambda queries, gallery: jnp.matmul(queries, gallery.T))
        for first in range(0, number - chunk + 1, chunk):
            product(queries[first : first + chunk], held).block_until_ready()
        return number - number % chunk

    def ranks(number):
        part = Matches(matches.offsets[: number + 1], matches.members[:number])
        best_ranks(queries[:number], gallery, part)
        return number

    def best(number):
        best_of(queries[:number], gallery, 10)
        return number

    measured = {"products": products, options.what: {"ranks": ranks, "best": best}[options.what]}
    for function in measured.values():
        function(min(2 * (MAXIMUM_SCORES // rows), options.queries or rows))  # compiles
    for _ in range(3):
        rates = {}
        for name, function in measured.items():
            began, spent = time.perf_counter(), time.process_time()
            done = function(options.queries or rows)
            seconds, spent = time.perf_counter() - began, time.process_time() - spent
            gigaflop = 2 * done * rows * width / 1e9
            rates[name] = (gigaflop / seconds, gigaflop / spent)
            print(
                f"{name:9} {done:7,} x {rows:,}: {seconds:6.1f} s, {gigaflop / seconds:6.1f} "
                f"GFLOP/s; {spent:6.1f} s of CPU, {gigaflop / spent:6.1f} GFLOP per second of it",
                flush=True,
            )
        wall, cpu = (
            one / all_ for one, all_ in zip(rates[options.what], rates["products"], strict=True)
        )
        print(f"of the products' rate: {wall:.2f} by the clock, {cpu:.2f} by CPU time", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
