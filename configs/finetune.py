"""Fine-tuning a pretrained OneR for retrieval on COCO or Flickr30k.

Use as `--config=configs/finetune.py:SIZE,source=WORKDIR,data=DIR[,option...]`, the size and data as
in `configs/oner.py`; DIR is what `oner_jax.ingest` made of Karpathy's annotations
(docs/datasets.md):

    python -m oner_jax.train --workdir=runs/flickr \\
        --config=configs/finetune.py:b16,source=runs/pretrained,data=data/flickr30k,image_size=384

    image_size=384    finer than in pretraining: the position table is resampled
    terms=itc+cmc     the terms that go on (default; the masked ones end with pretraining)

Ten epochs with a tenth of the learning rate and little cropping, as retrieval is fine-tuned in this
field (CLIP-like models on COCO; ALBEF, Li et al. 2021). The paper gives no recipe, so the numbers
are our choice. R@1 on `val` is measured after every epoch or so, and the best checkpoint is kept:
`oner_jax.evaluate --steps=best --datasets=DIR/test`.
"""

from ml_collections import ConfigDict

from configs import oner
from oner_jax.configuration import parse_recipe_argument
from oner_jax.errors import InputError

OPTIONS: dict[str, bool | str] = {
    "source": "",
    "data": "",
    "image_size": "",
    "terms": "itc+cmc",
}


def get_config(argument: str = "b16") -> ConfigDict:
    """The recipe at a size of `configs/oner.py`; InputError where patches do not fill images."""
    recipe = parse_recipe_argument(argument, sizes=oner.SIZES, options=OPTIONS)
    options = recipe.options
    data = f",data={options['data']}" if options["data"] else ""
    config = oner.get_config(f"{recipe.size},terms={options['terms']}{data}")
    config.initialise.source = str(options["source"])
    if options["image_size"]:
        config.model.image_size = _image_size(str(options["image_size"]), config.model.patch_size)
    config.optimizer.learning_rate_per_256_examples *= 0.1
    config.optimizer.end_learning_rate *= 0.1
    config.data.crop_min_fraction = 0.9
    if recipe.size != "tiny":
        config.batch_size = min(512, config.batch_size)
        config.total_steps, config.total_epochs = 0, 10.0
    # COCO has 113,000 pictures to train on: about an epoch at a batch of 512.
    config.evaluation.interval_steps = 10 if recipe.size == "tiny" else 200
    config.evaluation.tasks = ("retrieval",)
    checkpoint = config.checkpoint
    checkpoint.interval_steps = config.evaluation.interval_steps
    checkpoint.best_metric = "eval/retrieval/val/image_R@1"
    checkpoint.best_metric_mode = "max"
    return config


def _image_size(text: str, patch_size: int) -> int:
    if not text.isdigit() or not int(text) or int(text) % patch_size:
        raise InputError(
            f"recipe option image_size={text}: give a multiple of the patch size, {patch_size}"
        )
    return int(text)
