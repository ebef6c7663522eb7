"""The paper's ladder: what each term and each architecture brings, all else being equal.

Use as `--config=configs/ladder.py:SIZE[,arm=NAME][,data=DIR]` to train one arm, or run all of them:

    python -m launch.sweep --sweep=configs/ladder.py:cpu --workdir=runs/ladder

Sizes are `tiny` (the tests) and `cpu` (two cores, what RESULTS.md measures). Every arm has the same
data, steps, batch, order of examples, temperature, momentum, optimizer and schedule; none is tuned.
Exceptions are what an arm is about: `clip`, the plain baseline, has no momentum twin and learns its
temperature, `*_no_predictor` lack the predictor, and `transfer_*` have a quarter of the pairs.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import clip, oner
from oner_jax.configuration import nearest, parse_recipe_argument
from oner_jax.errors import InputError
from oner_jax.sweeps import Look, Sweep, Trial

SIZES = ("tiny", "cpu")
TOTAL_STEPS = {"tiny": 4, "cpu": 400}
EARLY_STEP = {"tiny": 2, "cpu": 50}  # METHOD section 3: the space at epoch 4 and at epoch 40


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the ladder: its name in tables and what it trains."""

    label: str
    architecture: str
    terms: str
    predictor: bool = True
    paired_fraction: float = 1.0
    captions_alone: bool = False


ARMS = {
    # The ablation of objectives, one tower with one head throughout (METHOD section 2).
    "naive": Arm("one tower: ITC", "one_tower", "itc"),
    "xmc": Arm("+ XMC", "one_tower", "itc+xmc"),
    "xmc_cic": Arm("+ XMC + CIC", "one_tower", "itc+xmc+cic"),
    "cmc": Arm("+ CMC", "one_tower", "itc+cmc"),
    "oner": Arm("OneR: + CMC + masked modelling", "one_tower", "itc+cmc+mim+mlm+mmm"),
    # The other reading of XMC: mix against mix.
    "xmc_mixed": Arm("+ XMC, mix against mix", "one_tower", "itc+xmc_mixed"),
    # METHOD's predictor is likely, not known, and may take the way from one modality to the other
    # upon itself: then what is embedded, the projection before it, need not agree.
    "naive_no_predictor": Arm("ITC, no predictor", "one_tower", "itc", predictor=False),
    "cmc_no_predictor": Arm("+ CMC, no predictor", "one_tower", "itc+cmc", predictor=False),
    "oner_no_predictor": Arm(
        "OneR, no predictor", "one_tower", "itc+cmc+mim+mlm+mmm", predictor=False
    ),
    "two_towers_no_predictor": Arm(
        "two towers: ITC, no predictor", "two_towers", "itc", predictor=False
    ),
    # The architectures, each with as much of the objective as it can serve.
    "two_towers": Arm("two towers: ITC", "two_towers", "itc"),
    "two_towers_masked": Arm("two towers: ITC + MIM + MLM", "two_towers", "itc+mim+mlm"),
    "two_legs": Arm("two legs: ITC + CMC", "two_legs", "itc+cmc"),
    "two_heads": Arm("one tower, two heads: ITC", "one_tower_two_heads", "itc"),
    "two_heads_cmc": Arm("one tower, two heads: ITC + CMC", "one_tower_two_heads", "itc+cmc"),
    "clip": Arm("CLIP", "two_towers", "itc"),
    # Cross-modal transfer: a quarter of the pairs, then with the captions of the others besides.
    **{
        f"transfer_{heads}{suffix}": Arm(
            f"{label}, a quarter of the pairs{more}",
            architecture,
            "itc+cmc+mlm",
            paired_fraction=0.25,
            captions_alone=bool(suffix),
        )
        for heads, label, architecture in (
            ("one_head", "one head", "one_tower"),
            ("two_heads", "two heads", "one_tower_two_heads"),
        )
        for suffix, more in (("", ""), ("_captions", " + captions alone"))
    },
}


def get_config(argument: str = "cpu") -> ConfigDict:
    """The recipe of one arm."""
    recipe = parse_recipe_argument(argument, sizes=SIZES, options={"arm": "oner", "data": ""})
    name = str(recipe.options["arm"])
    if name not in ARMS:
        raise InputError(f"unknown arm {name!r}{nearest(name, ARMS)}: arms are {', '.join(ARMS)}")
    base = "tiny" if recipe.size == "tiny" else "demo"
    base += f",data={recipe.options['data']}" if recipe.options["data"] else ""
    if name == "clip":
        config = clip.get_config(base)
    else:
        arm = ARMS[name]
        config = oner.get_config(f"{base},architecture={arm.architecture},terms={arm.terms}")
        if not arm.predictor:
            config.model.predictor_hidden_width = 0
        config.data.paired_fraction = arm.paired_fraction
    if recipe.size == "tiny":
        config.batch_size = 16
        config.data.evaluation = {"val": config.data.evaluation["val"]}
    else:
        config.batch_size = 64
    if ARMS[name].captions_alone:
        config.data.text_only_batch_size = config.batch_size
    config.total_steps = TOTAL_STEPS[recipe.size]
    config.log_interval_steps = config.total_steps // 4
    config.checkpoint.interval_steps = EARLY_STEP[recipe.size]
    # Every one, because early ones are looked at too.
    config.checkpoint.keep = config.total_steps // config.checkpoint.interval_steps
    return config


def get_sweep(argument: str = "cpu") -> Sweep:
    """Every arm; an option `data=DIR` is passed on to each."""
    size = parse_recipe_argument(argument, sizes=SIZES, options={"data": ""}).size
    early, last = EARLY_STEP[size], TOTAL_STEPS[size]
    maps = tuple(
        Look(trial, ("map",), "val", step)
        for trial, step in (("naive", last), ("cmc", early), ("cmc", last))
    )
    properties = tuple(
        Look(trial, ("localisation", "reasoning", "multimodal"), "val", every_seed=True)
        for trial in (
            *("oner", "two_towers", "two_towers_masked"),
            *("oner_no_predictor", "two_towers_no_predictor"),
        )
    )
    return Sweep(
        trials=tuple(
            Trial(name=name, label=arm.label, recipe=f"configs/ladder.py:{argument},arm={name}")
            for name, arm in ARMS.items()
        ),
        seeds=(0,) if size == "tiny" else (0, 1, 2),
        tasks=("retrieval", "geometry"),
        looks=(*maps, *properties) if size == "cpu" else maps[:1],
        report="ladder",
    )
