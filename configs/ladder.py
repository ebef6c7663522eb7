"""The paper's ladder: what each term and each architecture contributes, everything else equal.

Use as `--config=configs/ladder.py:LENGTH[,arm=NAME][,data=DIR]` to train one arm, or run all:

    python -m launch.sweep --sweep=configs/ladder.py:epochs40 --workdir=runs/ladder/epochs40

Lengths:

    tiny        4 steps, for the tests
    epochs11    2,400 steps (11 epochs of the embedded pairs): every arm
    epochs40    8,766 steps (40 epochs, the paper's length): the central arms, and the temperatures

Every arm has the data, steps, batch, order of examples, temperature, momentum, optimizer and
schedule of `BASE`; none is tuned. The exceptions are what an arm is about: `clip`, the plain
baseline, has no momentum encoder and learns its temperature; `*_predictor` arms have a predictor;
`*_temperature_*` arms another temperature; and `transfer_*` arms a quarter of the pairs.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import clip, oner
from oner_jax.claims.sweep import Look, Sweep, Trial
from oner_jax.configuration import nearest, parse_recipe_argument
from oner_jax.errors import InputError

TOTAL_STEPS = {"tiny": 4, "epochs11": 2400, "epochs40": 8766}
# The paper shows the space at epoch 4 and at epoch 40 (docs/method.md, "What the paper finds").
EARLY_STEP = {"tiny": 2, "epochs11": 877, "epochs40": 877}

PREDICTOR_HIDDEN_WIDTH = 384

# Shared by every arm. It stands here in full, so that the demo's recipe can change without the
# tables of RESULTS.md becoming those of another recipe.
BASE = {
    "batch_size": 64,
    "log_interval_steps": 50,
    "data.crop_min_fraction": 0.7,
    "model.stem": "convolution",
    "model.stem_width": 64,
    "model.stem_first_stride": 4,
    "model.width": 128,
    "model.depth": 2,
    "model.heads": 2,
    "model.mlp_width": 512,
    "model.patch_size": 16,
    "model.image_size": 48,
    "model.text_tokens": 10,
    "model.projection_hidden_width": 384,
    "model.projection_width": 128,
    "model.predictor_hidden_width": 0,
    "objective.temperature": 0.2,
    "objective.image_mask_fraction": 0.11,
    "objective.image_mask_block_patches": 1,
    "optimizer.learning_rate_per_256_examples": 8e-3,
    "momentum.start": 0.5,
    "momentum.end": 0.99,
}
MASKED_TERMS_WEIGHT = 0.1


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the ladder: its name in tables and what it trains."""

    label: str
    terms: str
    architecture: str = "one_tower"
    predictor: bool = False
    temperature: float = 0.0  # 0: BASE's
    paired_fraction: float = 1.0
    text_only: bool = False


_MASKED = "mim+mlm+mmm"

# The paper's ablation: one tower with one head throughout, and what it is compared with.
CENTRAL = {
    "naive": Arm("one tower: ITC", "itc"),
    "xmc": Arm("+ XMC", "itc+xmc"),
    "xmc_cic": Arm("+ XMC + CIC", "itc+xmc+cic"),
    "cmc": Arm("+ CMC", "itc+cmc"),
    "oner": Arm("OneR: + CMC + masked modelling", f"itc+cmc+{_MASKED}"),
    "oner_xmc": Arm("OneR + XMC", f"itc+xmc+cmc+{_MASKED}"),
    "two_towers": Arm("two towers: ITC", "itc", "two_towers"),
    "clip": Arm("CLIP", "itc", "two_towers"),
}
# The other reading of XMC, and the other architectures with as much of the objective as they serve.
OTHERS = {
    "xmc_mixed": Arm("+ XMC, mix against mix", "itc+xmc_mixed"),
    "two_towers_masked": Arm("two towers: ITC + MIM + MLM", "itc+mim+mlm", "two_towers"),
    "two_heads": Arm("one tower, two heads: ITC", "itc", "one_tower_two_heads"),
    "two_heads_cmc": Arm("one tower, two heads: ITC + CMC", "itc+cmc", "one_tower_two_heads"),
    "two_legs": Arm("two legs: ITC + CMC", "itc+cmc", "two_legs"),
}


def _with_predictor(arms: dict[str, Arm]) -> dict[str, Arm]:
    return {
        f"{name}_predictor": dataclasses.replace(
            arm, label=f"{arm.label}, predictor", predictor=True
        )
        for name, arm in arms.items()
        if name != "clip"
    }


# Cross-modal transfer: a quarter of the pairs, then with the captions of the others in addition.
TRANSFER = {
    f"transfer_{heads}{suffix}": Arm(
        f"{label}, a quarter of the pairs{more}",
        "itc+cmc+mlm",
        architecture,
        paired_fraction=0.25,
        text_only=bool(suffix),
    )
    for heads, label, architecture in (
        ("one_head", "one head", "one_tower"),
        ("two_heads", "two heads", "one_tower_two_heads"),
    )
    for suffix, more in (("", ""), ("_captions", " + captions without images"))
}
TEMPERATURES = {
    f"{name}_temperature_{value:.2f}": dataclasses.replace(
        CENTRAL[name], label=f"{CENTRAL[name].label}, temperature {value}", temperature=value
    )
    for name in ("naive", "oner")
    for value in (0.07, 0.1)
}

ARMS = {
    **CENTRAL,
    **_with_predictor(CENTRAL),
    **OTHERS,
    **TRANSFER,
    **_with_predictor(OTHERS),
    **TEMPERATURES,
}
ARMS_BY_LENGTH = {
    "tiny": tuple(ARMS),
    "epochs11": tuple(name for name in ARMS if name not in TEMPERATURES),
    "epochs40": (*CENTRAL, *TEMPERATURES),
}


def get_config(argument: str = "epochs11") -> ConfigDict:
    """Return the recipe of one arm. Raise InputError for an unknown arm, naming the nearest."""
    recipe = parse_recipe_argument(
        argument, sizes=tuple(TOTAL_STEPS), options={"arm": "oner", "data": ""}
    )
    name, length = str(recipe.options["arm"]), recipe.size
    if name not in ARMS:
        raise InputError(f"unknown arm {name!r}{nearest(name, ARMS)}: arms are {', '.join(ARMS)}")
    arm = ARMS[name]
    data = f",data={recipe.options['data']}" if recipe.options["data"] else ""
    config = oner.get_config(f"tiny,architecture={arm.architecture},terms={arm.terms}{data}")
    if length == "tiny":
        config.batch_size = 16
        config.data.evaluation = {"val": config.data.evaluation["val"]}
        config.model.predictor_hidden_width = 0
    else:
        config.update_from_flattened_dict(BASE)
        for term in ("mim", "mlm", "mmm"):
            config.objective.weights[term] *= MASKED_TERMS_WEIGHT
    if name == "clip":
        clip.make_clip(config)
    if arm.predictor:
        config.model.predictor_hidden_width = PREDICTOR_HIDDEN_WIDTH
    if arm.temperature:
        config.objective.temperature = arm.temperature
    config.data.paired_fraction = arm.paired_fraction
    if arm.text_only:
        config.data.text_only_batch_size = config.batch_size
    config.total_epochs, config.total_steps = 0.0, TOTAL_STEPS[length]
    config.checkpoint.interval_steps = EARLY_STEP[length]
    # Every one, because early ones are looked at too.
    config.checkpoint.keep = -(-config.total_steps // config.checkpoint.interval_steps)
    return config


def get_sweep(argument: str = "epochs11") -> Sweep:
    """Return every arm of a length; an option `data=DIR` is passed on to each."""
    length = parse_recipe_argument(argument, sizes=tuple(TOTAL_STEPS), options={"data": ""}).size
    early, last = EARLY_STEP[length], TOTAL_STEPS[length]
    # The space early and late; these looks are of the first seed.
    maps = tuple(
        Look(arm, ("map",), "val", step)
        for arm in ("naive_predictor", "naive", "xmc", "cmc", "oner", "oner_xmc")
        if arm in ARMS_BY_LENGTH[length]
        for step in (early, last)
    )
    properties = tuple(
        Look(arm, ("localisation", "reasoning", "multimodal"), "val", every_seed=True)
        for arm in ("naive", "xmc", "cmc", "oner", "oner_xmc", "two_towers", "clip")
    )
    return Sweep(
        trials=tuple(
            Trial(name, f"configs/ladder.py:{argument},arm={name}", label=ARMS[name].label)
            for name in ARMS_BY_LENGTH[length]
        ),
        seeds=(0,) if length == "tiny" else (0, 1, 2),
        tasks=("retrieval", "geometry"),
        looks=maps[:1] if length == "tiny" else (*maps, *properties),
        report="ladder",
    )
