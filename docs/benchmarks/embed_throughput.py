"""`oner_jax.embed` on a folder of JPEGs beside the bare compiled encoder, on this machine.

    python docs/benchmarks/embed_throughput.py --model=RUN [--pictures=4096] [--side=480]

Three rates, in turn and on the same pictures, so that all see one machine: the encoder on batches
that are decoded already, decoding alone in as many threads as `embed` takes, and `embed` from the
files to its finished folder. Where threads decode on the processors that also encode (a CPU), the
most that `embed` can reach is 1 / (1 / encoder + 1 / decoding).
"""

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import oner_jax
from oner_jax.data import sources
from oner_jax.data.cores import available_cores
from oner_jax.data.timing.photos import photo_file
from oner_jax.indexing.making import BATCHES_PER_PART, make_embeddings

DIFFERENT = 64  # pictures made; the others are copies under other names


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--side", type=int, default=480)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = oner_jax.load(options.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        photos.mkdir()
        contents = [
            photo_file(seed, options.side, options.side * 4 // 3) for seed in range(DIFFERENT)
        ]
        for number in range(options.pictures):
            (photos / f"{number:06}.jpg").write_bytes(contents[number % DIFFERENT])
        files = sorted(photos.iterdir())
        with ThreadPoolExecutor(available_cores()) as threads:

            def decode():
                return list(threads.map(lambda path: model.pixels(path), files))

            pixels = np.stack(decode())
            parts = sources.open_source(
                str(photos), "folder", examples_per_part=BATCHES_PER_PART * model.batch_size
            )

            def encode():
                for first in range(0, len(pixels), model.batch_size):
                    model.embed_arrays(pixels[first : first + model.batch_size], None)

            def embed(repeat):
                make_embeddings(
                    model, parts, "image", folder / f"{repeat}", file_format="npy", source="photos"
                )

            encode()  # compiles
            rates = {"encoder": [], "decoding": [], "embed": []}
            for repeat in range(options.repeats):
                for what, function in (
                    ("encoder", encode),
                    ("decoding", decode),
                    ("embed", lambda repeat=repeat: embed(repeat)),
                ):
                    began = time.perf_counter()
                    function()
                    rates[what].append(len(files) / (time.perf_counter() - began))
    medians = {what: statistics.median(found) for what, found in rates.items()}
    for what, found in rates.items():
        shown = ", ".join(f"{rate:,.0f}" for rate in sorted(found))
        print(f"{what:9} {medians[what]:8,.0f} pictures/s  ({shown})")
    reachable = 1 / (1 / medians["encoder"] + 1 / medians["decoding"])
    print(f"embed / encoder {medians['embed'] / medians['encoder']:.2f}")
    print(f"embed / what both together can reach on a CPU {medians['embed'] / reachable:.2f}")


if __name__ == "__main__":
    main()
