"""OneR pretraining: ITC + CMC + MIM + MLM + MMM on a single tower with a single head.

Use as `--config=configs/oner.py:SIZE[,option...]`: `configs/oner.py:b16`,
`configs/oner.py:demo,long` or `configs/oner.py:demo,shuffle_captions=True`. Sizes are arguments,
not files. Options:

    data=DIR               train on DIR/train and evaluate on DIR/val, validation, dev or test (the
                           first that is there, else a hundredth of DIR/train, held out), by
                           oner_jax.ingest; a folder or gs://...
    architecture=NAME      one_tower (OneR), one_tower_two_heads, two_towers or two_legs
    terms=itc+xmc          only these terms of the objective; default: OneR's, and in demo XMC too
    long                   demo only: an hour instead of eight minutes on two CPU cores
    shuffle_captions=True  the control: every picture gets some other picture's captions
"""

from etils import epath
from ml_collections import ConfigDict

from oner_jax.configuration import RecipeArgument, nearest, parse_recipe_argument
from oner_jax.data.directory import training_and_evaluation
from oner_jax.errors import InputError
from oner_jax.files import Access, usable
from oner_jax.objectives.terms import TERMS
from oner_jax.parallel.mesh import DEFAULT_RULES
from oner_jax.training.storage import failure_reason

#               width depth heads patch image
VIT_SHAPES = {
    "ti16": (192, 12, 3, 16, 224),
    "s16": (384, 12, 6, 16, 224),
    "b32": (768, 12, 12, 32, 224),
    "b16": (768, 12, 12, 16, 224),
    "l16": (1024, 24, 16, 16, 224),
    "h14": (1280, 32, 16, 14, 224),
}
SIZES = ("tiny", "demo", *VIT_SHAPES)
ONER_TERMS = "itc+cmc+mim+mlm+mmm"  # the paper's


def get_config(argument: str = "b16") -> ConfigDict:
    """The recipe as docs/method.md states it at ViT sizes; `tiny` and `demo` scale it down."""
    recipe = parse_recipe_argument(
        argument,
        sizes=SIZES,
        options={
            "data": "",
            "architecture": "one_tower",
            "terms": "",
            "long": False,
            "shuffle_captions": False,
        },
    )
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 4096
    config.accumulation_steps = 1
    # The length of the run: one of the two, the other 0.
    config.total_steps = 0
    config.total_epochs = 40.0
    config.log_interval_steps = 50
    config.compilation_cache = "~/.cache/oner_jax/compiled"  # or JAX_COMPILATION_CACHE_DIR

    config.data = data = ConfigDict()
    # A split, or several: "A,B" as if they were one, "A=3,B=1" three of A for one of B.
    data.train = "embedded:train"
    data.evaluation = {"val": "embedded:val", "new_vendor": "embedded:new_vendor"}
    data.tokenizer = "embedded"
    data.crop_min_fraction = 0.5
    data.flip = True
    # Further changes of images, by strength; 0 leaves one out. On a white ground each image is
    # scaled by a factor from 1 / (1 + scale) to 1 + scale, shifted by at most `shift` of its side
    # and rotated; each channel is multiplied by a factor from 1 - colour_scale to 1 + colour_scale
    # and shifted by at most `colour_offset` of its range; a fraction becomes grey.
    data.augment = {
        "scale": 0.0,
        "shift": 0.0,
        "rotation_degrees": 0.0,
        "colour_scale": 0.0,
        "colour_offset": 0.0,
        "grey_fraction": 0.0,
    }
    # This part of each batch's pairs, a multiple of 1/8, becomes mosaics: two to four images of the
    # batch on one white ground, captions joined with "and". Captions that do not fit
    # model.text_tokens together are not joined: the metric mosaic_fraction says how many were.
    data.mosaic_fraction = 0.0
    # The text of a record that names its concept, for objective.equal_concepts_are_positives: its
    # label or one of its metadata. A record without it has its caption as its concept; so have all
    # records where this is "".
    data.concept_field = "concept"
    data.shuffle_captions = recipe.options["shuffle_captions"]
    # Beside pairs each step takes this many pictures alone, for MIM, and captions alone, for MLM:
    # of these data or, where "", of the pairs that paired_fraction below 1 leaves out.
    data.image_only = data.text_only = ""
    data.image_only_batch_size = data.text_only_batch_size = 0
    data.paired_fraction = 1.0
    # Damaged records are replaced and counted; beyond this, of all examples seen, the run ends.
    data.maximum_damaged_fraction = 0.001
    data.threads = 0  # 0: as many as the host has cores

    if recipe.options["data"]:
        _use_own_data(data, epath.Path(usable(str(recipe.options["data"]), Access.GS)))

    config.model = model = ConfigDict()
    model.architecture = str(recipe.options["architecture"])
    model.stem = "patch"
    model.stem_width = 64
    model.stem_first_stride = 2
    model.stem_residual_layers = 0
    model.text_tokens = 78
    model.vocabulary_size = 0  # 0: the tokenizer's
    model.projection_layers = 3
    model.projection_hidden_width = 4096
    model.projection_width = 256
    # Ours: the paper's predictor is likely, not known. It lets g(I) and g(T) stay apart, and what
    # is embedded is g (RESULTS.md). Above 0: MoCo v3's two layers of this hidden width.
    model.predictor_hidden_width = 0
    model.learned_logits = False
    model.view_type_embedding = False
    model.dtype = "bfloat16"
    model.remat = "cheap"
    model.attention = "auto"  # cuDNN's fused kernel on an NVIDIA GPU, XLA elsewhere
    model.layers_per_scan_step = 1

    config.objective = objective = ConfigDict()
    objective.weights = dict.fromkeys(TERMS, 0.0) | dict.fromkeys(_terms(recipe), 1.0)
    objective.key_source = "momentum"
    objective.form = "softmax"
    # Ours, as MoCo v3's: soft enough that a constant offset between the modalities is costly.
    objective.temperature = 0.2
    objective.logit_bias = 0.0
    objective.mask_equal_captions = True
    # Pairs of one concept (data.concept_field) are each other's positives: the target of the
    # softmax is spread over all of them.
    objective.equal_concepts_are_positives = False
    objective.image_mask_fraction = 0.6
    objective.image_mask_block_patches = 2
    objective.word_mask_fraction = 0.15

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate_per_256_examples = 1.5e-4
    optimizer.end_learning_rate = 1e-6
    optimizer.warmup_fraction = 0.05
    optimizer.beta_1 = 0.9
    optimizer.beta_2 = 0.98
    optimizer.weight_decay = 0.1
    optimizer.clip_norm = 1.0

    # The momentum encoder's average: fixed for medium runs; docs/method.md has 0.99 under 10k steps
    # and a cosine to 1 from 100k steps.
    config.momentum = {"start": 0.996, "end": 0.996}

    # A step whose loss is not finite, or this far above the recent ones (in robust standard
    # deviations; 0: however far), is skipped; many in a row roll the run back.
    config.guards = guards = ConfigDict()
    guards.spike_z_score = 10.0
    guards.spike_window_steps = 128
    guards.maximum_consecutive_skips = 10
    guards.maximum_rollbacks = 1

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.interval_steps = 1000
    checkpoint.interval_minutes = 0.0  # 0: by steps alone
    checkpoint.keep = 3
    checkpoint.keep_every_steps = 0  # above 0: every one at a multiple of it stays, for ever
    checkpoint.best_metric = ""  # the one that is best by this stays, for example by "loss"
    checkpoint.best_metric_mode = "min"
    # Weights to begin with: a workdir or checkpoint of ours, or a ViT's .npz or .safetensors.
    config.initialise = initialise = ConfigDict()
    initialise.source = ""
    initialise.rename = ()  # 'REGEX=>REPLACEMENT' for names of the source, in turn
    initialise.skip = ()  # regexes: arrays of ours that stay fresh
    initialise.resampling = "bicubic"  # of position tables to another grid; or bilinear
    # These tasks of oner_jax.evaluate every so many steps and at the last one; 0: never.
    config.evaluation = {"interval_steps": 0, "tasks": ("retrieval", "zeroshot")}
    # Without a finished step for so long the run ends, with the stacks of all threads; 0: never.
    config.watchdog = {"minutes": 20.0, "first_step_minutes": 60.0}
    config.preflight = True  # before the first step, time every host and name the slow ones
    # -1 for slice: as many as the hardware has; for another axis: all devices that are left.
    config.mesh = {"slice": -1, "data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = DEFAULT_RULES

    if recipe.size in VIT_SHAPES:
        width, depth, heads, patch_size, image_size = VIT_SHAPES[recipe.size]
        _set_shape(model, width, depth, heads, patch_size, image_size)
        # SimMIM hides blocks of 32 px.
        objective.image_mask_block_patches = max(1, 32 // patch_size)
    elif recipe.size == "tiny":
        _make_tiny(config)
    else:
        _make_demo(config, long=bool(recipe.options["long"]))
    return config


def _terms(recipe: RecipeArgument) -> list[str]:
    named = str(recipe.options["terms"]) or ONER_TERMS + ("+xmc" if recipe.size == "demo" else "")
    terms = named.split("+")
    for term in terms:
        if term not in TERMS:
            raise InputError(
                f"unknown term {term!r}{nearest(term, TERMS)}: terms are {', '.join(TERMS)}"
            )
    return terms


def _use_own_data(data: ConfigDict, directory: epath.Path) -> None:
    tokenizer = directory / "tokenizer.model"
    try:
        data.train, evaluation = training_and_evaluation(directory)
        data.evaluation = {"val": evaluation}
        if tokenizer.exists():
            data.tokenizer = str(tokenizer)
    except Exception as error:  # object storage, by as many libraries as there are
        if (reason := failure_reason(error)) is None:
            raise
        raise InputError(f"data={directory}: cannot be looked at ({reason})") from error


def _set_shape(
    model: ConfigDict, width: int, depth: int, heads: int, patch_size: int, image_size: int
) -> None:
    model.width, model.depth, model.heads = width, depth, heads
    model.mlp_width = 4 * width
    model.patch_size, model.image_size = patch_size, image_size


def _make_tiny(config: ConfigDict) -> None:
    """Seconds on a laptop: every part runs, nothing is learned well. What the tests train."""
    _set_shape(config.model, width=32, depth=2, heads=2, patch_size=8, image_size=32)
    _set_small_heads(config.model, 64, 32)
    config.model.text_tokens = 8
    config.batch_size = 32
    config.total_epochs, config.total_steps = 0.0, 30
    config.log_interval_steps = 5
    config.checkpoint.interval_steps = 10
    config.optimizer.learning_rate_per_256_examples = 8e-3
    config.momentum = {"start": 0.9, "end": 0.9}


def _make_demo(config: ConfigDict, *, long: bool) -> None:
    """The most that ten minutes (or an hour) of two CPU cores teach.

    Compared with the paper's defaults: small images and a convolutional stem (fewer tokens), few
    layers and small batches (more updates), XMC in addition (R@10 is higher in this time), a
    momentum encoder that follows fast at first, little masking and small weights for its terms,
    because hidden inputs slow contrast down more than they help in so few epochs.
    """
    _set_shape(config.model, width=128, depth=2, heads=2, patch_size=16, image_size=48)
    _set_small_heads(config.model, 384, 128)
    config.model.stem = "convolution"
    config.model.stem_width = 64
    config.model.stem_first_stride = 4
    config.model.text_tokens = 10
    config.batch_size = 64
    config.total_epochs, config.total_steps = 0.0, 5000
    config.log_interval_steps = 50
    config.checkpoint.interval_steps = 1000
    config.data.crop_min_fraction = 0.7
    config.objective.image_mask_fraction = 0.11
    config.objective.image_mask_block_patches = 1
    for term in ("mim", "mlm", "mmm"):
        config.objective.weights[term] *= 0.1
    config.optimizer.learning_rate_per_256_examples = 8e-3
    config.momentum = {"start": 0.5, "end": 0.99}
    if long:
        _set_shape(config.model, width=192, depth=2, heads=3, patch_size=16, image_size=64)
        config.batch_size = 128
        config.total_steps = 3600
        config.data.crop_min_fraction = 0.5
        config.momentum = {"start": 0.5, "end": 0.996}
        config.optimizer.learning_rate_per_256_examples = 4e-3


def _set_small_heads(model: ConfigDict, hidden_width: int, output_width: int) -> None:
    model.projection_hidden_width = hidden_width
    model.projection_width = output_width
    model.dtype = "float32"
    model.remat = "none"
