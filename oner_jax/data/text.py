"""The former place of `python -m oner_jax.data.tokenizer`, kept for one release."""

import runpy
import sys

if __name__ == "__main__":
    print("note: this program is now python -m oner_jax.data.tokenizer", file=sys.stderr)
    runpy.run_module("oner_jax.data.tokenizer", run_name="__main__", alter_sys=True)
