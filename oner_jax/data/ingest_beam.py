"""The former place of `python -m oner_jax.ingest_beam`, kept for one release."""

import runpy
import sys

if __name__ == "__main__":
    print("note: this program is now python -m oner_jax.ingest_beam", file=sys.stderr)
    runpy.run_module("oner_jax.ingest_beam", run_name="__main__", alter_sys=True)
