"""What of a directory that `oner_jax.ingest` made is trained on, and what is evaluated on."""

from etils import epath

from oner_jax.data.held_out import HeldOut

MANIFEST = "manifest.json"
TRAINING = "train"
# The first of them that is there is evaluated on.
EVALUATION = ("val", "validation", "dev", "test")
HELD_OUT_PERCENT = "1"


def training_and_evaluation(directory: epath.Path) -> tuple[str, str]:
    """Return the names of the split to train on and of the one to evaluate on.

    Where the only split is `train`, one of its records in a hundred is held out for evaluation.
    """
    for name in EVALUATION:
        if (directory / name / MANIFEST).exists():
            return str(directory / TRAINING), str(directory / name)
    if (directory / TRAINING / MANIFEST).exists():
        held_out = HeldOut(str(directory / TRAINING), HELD_OUT_PERCENT, without=False)
        return held_out.others.name, held_out.name
    return str(directory / TRAINING), str(directory / EVALUATION[0])
