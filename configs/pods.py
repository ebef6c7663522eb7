"""OneR on pods that can be rented: a size, a batch and a mesh that fit a topology, planned.

Use as `--config=configs/pods.py:NAME[,data=DIR]`, for example `configs/pods.py:b16_v5e_64`; names
are rows of PODS, what to expect of each is the table in launch/README.md. Everything that is not
named here is `configs/oner.py`'s.

The learning rate follows the batch up to 4,096 linearly (docs/method.md), and from there by its
square root (Malladi et al. 2022, for Adam). That part, like all batches above 4,096, is our choice
and was planned, not trained.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import oner
from oner_jax.configuration import parse_recipe_argument

LINEAR_BATCH_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Pod:
    """A size on a topology. `fsdp` is the axis of the mesh; the rest of it is data parallel."""

    size: str
    topology: str
    batch_size: int
    num_slices: int = 1
    accumulation_steps: int = 1
    remat: str = "cheap"
    fsdp: int = 1


PODS = {
    "b16_v5e_16": Pod("b16", "v5e:4x4", 4096, accumulation_steps=4),
    "b16_v5e_64": Pod("b16", "v5e:8x8", 4096),
    "b16_v5e_256": Pod("b16", "v5e:16x16", 16384),
    "b16_v5e_2x256": Pod("b16", "v5e:16x16", 32768, num_slices=2),
    "b16_v6e_16": Pod("b16", "v6e:4x4", 4096, accumulation_steps=2),
    "l16_v5e_256": Pod("l16", "v5e:16x16", 16384, accumulation_steps=2, remat="qkv", fsdp=16),
    "h14_v5p_128": Pod("h14", "v5p:4x4x8", 8192, fsdp=32),
    "b16_h100_8": Pod("b16", "h100:8", 4096),
    "b16_h100_64": Pod("b16", "h100:64", 16384),
    "l16_h100_64": Pod("l16", "h100:64", 8192),
    "h14_h100_64": Pod("h14", "h100:64", 4096, fsdp=8),
}


def get_config(argument: str = "b16_v5e_64") -> ConfigDict:
    """`configs/oner.py` at the pod's size, batch and mesh."""
    recipe = parse_recipe_argument(argument, sizes=tuple(PODS), options={"data": ""})
    pod = PODS[recipe.size]
    data = f",data={recipe.options['data']}" if recipe.options["data"] else ""
    config = oner.get_config(pod.size + data)
    config.batch_size = pod.batch_size
    config.accumulation_steps = pod.accumulation_steps
    config.model.remat = pod.remat
    config.mesh.fsdp = pod.fsdp
    beyond = max(1.0, pod.batch_size / LINEAR_BATCH_SIZE)
    config.optimizer.learning_rate_per_256_examples /= beyond**0.5
    return config
