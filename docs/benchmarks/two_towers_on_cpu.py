"""Training step of the two-tower arm beside big_vision's and open_clip's, on one CPU.

    python docs/benchmarks/two_towers_on_cpu.py --big_vision=DIR --open_clip=DIR \\
        --open_clip_python=PYTHON

ViT-Ti/16 and a text tower of the same width, 224 px, 64 sub-words of 32,000, batch 16, float32,
sigmoid loss, AdamW with clipping, everything from a random batch. `DIR` are checkouts of the peers;
big_vision runs under this Python's JAX, open_clip under the Python that is named, since it needs
PyTorch. Each contestant is a process that compiles and warms up, then waits; rounds go through all
of them in turn, so that a machine that slows down slows all of them.
"""

import argparse
import importlib.machinery
import json
import os
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
BATCH, SIZE, TOKENS, VOCABULARY, WIDTH, DEPTH, HEADS = 16, 224, 64, 32_000, 192, 12, 3


class AnythingsType(type):
    """Gives a class every attribute that is asked for."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class Anything(metaclass=AnythingsType):
    """Stands for whatever a peer takes from an absent package: to call, or to inherit from."""

    def __init__(self, *arguments, **options):
        pass


class Absent(types.ModuleType):
    """Stands for a package that a peer imports and this step does not need."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


def leave_out(*packages):
    """Let `packages` be imported without being there."""
    for package in packages:
        module = Absent(package)
        module.__spec__ = importlib.machinery.ModuleSpec(package, None)
        module.__path__ = []
        sys.modules[package] = module


def ours(_):
    """The two-tower arm as `configs/clip.py:ti16,sigmoid` trains it."""
    sys.path.insert(0, str(ROOT))
    import jax

    from configs import clip
    from oner_jax import configuration
    from oner_jax.objectives.batch import TextFormat
    from oner_jax.training.recipe import Recipe
    from oner_jax.training.synthetic import synthetic_batch

    config = clip.get_config("ti16,sigmoid")
    config.batch_size, config.total_epochs, config.total_steps = BATCH, 0.0, 1000
    config.model.text_tokens = TOKENS
    config.model.projection_width = WIDTH
    config.model.dtype, config.model.remat = "float32", "none"
    config.model.layers_per_scan_step = DEPTH
    config = configuration.resolve(config, training_records=1, vocabulary_size=VOCABULARY)
    recipe = Recipe.from_config(config, TextFormat.synthetic(VOCABULARY))
    batch = synthetic_batch(recipe)
    state = recipe.init_state()

    def step():
        nonlocal state
        state, metrics = recipe.step(state, batch)
        jax.block_until_ready((state, metrics))

    return step


def big_vision(checkout):
    """`two_towers` with `vit` and `text_transformer`, under the sigmoid loss of its trainer."""
    leave_out("tensorflow", "tensorflow.io", "tensorflow.io.gfile")
    sys.path.insert(0, checkout)
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from big_vision.models.proj.image_text import two_towers

    model = two_towers.Model(
        image={"variant": "Ti/16", "pool_type": "tok"},
        text={"variant": "Ti", "vocab_size": VOCABULARY},
        out_dim=(None, WIDTH),
        temperature_init=10.0,
        bias_init=-10.0,
    )
    random = np.random.default_rng(0)
    image = jnp.asarray(random.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8))
    text = jnp.asarray(random.integers(3, VOCABULARY, (BATCH, TOKENS), np.int32))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b1=0.9, b2=0.98, weight_decay=0.1)
    )

    def loss(parameters, image, text):
        pixels = image.astype(jnp.float32) / 127.5 - 1
        zimg, ztxt, extra = model.apply({"params": parameters}, pixels, text)
        logits = zimg @ ztxt.T * extra["t"] + extra["b"]
        signs = 2 * jnp.eye(BATCH) - 1
        return -jax.nn.log_sigmoid(signs * logits).sum(axis=-1).mean()

    @jax.jit
    def update(state, image, text):
        parameters, moments = state
        value, gradients = jax.value_and_grad(loss)(parameters, image, text)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return (optax.apply_updates(parameters, updates), moments), value

    update = jax.jit(update.__wrapped__, donate_argnums=0)
    parameters = model.init(jax.random.key(0), image.astype(jnp.float32), text)["params"]
    state = (parameters, optimizer.init(parameters))

    def step():
        nonlocal state
        state, value = update(state, image, text)
        jax.block_until_ready((state, value))

    return step


def open_clip(checkout):
    """`CLIP` of the same shapes with `SigLipLoss`, eager as its trainer runs by default."""
    leave_out("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    leave_out("torchvision.ops", "torchvision.ops.misc")
    sys.path.insert(0, f"{checkout}/src")
    import torch
    from open_clip.loss import SigLipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    model = CLIP(
        WIDTH,
        CLIPVisionCfg(
            layers=DEPTH, width=WIDTH, head_width=WIDTH // HEADS, patch_size=16, image_size=SIZE
        ),
        CLIPTextCfg(
            context_length=TOKENS, vocab_size=VOCABULARY, width=WIDTH, heads=HEADS, layers=DEPTH
        ),
        init_logit_scale=2.302585,
        init_logit_bias=-10.0,
    )
    model.train()
    loss = SigLipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.1)
    torch.manual_seed(0)
    image = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    text = torch.randint(3, VOCABULARY, (BATCH, TOKENS))

    def step():
        optimizer.zero_grad()
        outputs = model(image.float() / 127.5 - 1, text)
        features = outputs if isinstance(outputs, tuple) else tuple(outputs.values())
        value = loss(*features)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


CONTESTANTS = {"oner_jax": ours, "big_vision": big_vision, "open_clip": open_clip}


def contestant(name, checkout):
    """Warm up, then run as many steps as each line of standard input asks for."""
    step = CONTESTANTS[name](checkout)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begun, flush=True)


def main():
    """Run the contestants that were named, in turn, and print pairs a second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contestant", choices=CONTESTANTS)
    parser.add_argument("--checkout", default="")
    parser.add_argument("--big_vision", default="")
    parser.add_argument("--open_clip", default="")
    parser.add_argument("--open_clip_python", default=sys.executable)
    parser.add_argument(
        "--huge_pages", action="store_true", help="memory in huge pages (glibc), for all alike"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    if options.contestant:
        contestant(options.contestant, options.checkout)
        return
    wanted = {"oner_jax": (sys.executable, "")}
    if options.big_vision:
        wanted["big_vision"] = (sys.executable, options.big_vision)
    if options.open_clip:
        wanted["open_clip"] = (options.open_clip_python, options.open_clip)
    environment = os.environ.copy()
    if options.huge_pages:
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    running = {}
    for name, (python, checkout) in wanted.items():
        running[name] = subprocess.Popen(
            [python, __file__, f"--contestant={name}", f"--checkout={checkout}"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # What a peer prints while it is imported comes before that.
        lines = iter(running[name].stdout.readline, "")
        assert "ready\n" in lines, f"{name} did not start"
    seconds = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, process in running.items():
            process.stdin.write(f"{options.steps}\n")
            process.stdin.flush()
            seconds[name].append(float(process.stdout.readline()) / options.steps)
    for process in running.values():
        process.stdin.close()
    for name, times in seconds.items():
        ratios = [other / mine for other, mine in zip(times, seconds["oner_jax"], strict=True)]
        print(
            json.dumps(
                {
                    "contestant": name,
                    "step_seconds_median": round(statistics.median(times), 4),
                    "step_seconds_range": [round(min(times), 4), round(max(times), 4)],
                    "pairs_per_sec": round(BATCH / statistics.median(times), 2),
                    "oner_jax_speed_over_it": round(statistics.median(ratios), 3),
                }
            )
        )


if __name__ == "__main__":
    main()
