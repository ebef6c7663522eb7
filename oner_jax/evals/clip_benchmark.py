"""Our checkpoints in CLIP_benchmark, unchanged, through its own command line.

    python -m oner_jax.evals.clip_benchmark eval --pretrained=WORKDIR --dataset=cifar10

takes every option of `clip_benchmark`; `--pretrained` names a run, or one of its checkpoints as
WORKDIR@STEP. Needs `pip install "oner_jax[clip_benchmark]"`. Its numbers are not always those of
`oner_jax.evaluate`: it counts every repeated caption as a query of its own.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from oner_jax.command_line import flag_help
from oner_jax.command_line.program import report
from oner_jax.data.preprocessing import encoder_pixels
from oner_jax.data.tokenizer import Tokenizer
from oner_jax.errors import InputError
from oner_jax.models.embedding import Embedder
from oner_jax.training.checkpointing.checkpoints import load_run

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "oner_jax"


class Model:
    """The members of a CLIP model that CLIP_benchmark asks for: torch tensors in and out."""

    def __init__(self, embedder: Embedder):
        self._embedder = embedder

    def encode_image(self, images: "torch.Tensor") -> "torch.Tensor":
        """Projected features (n, d) at unit length of uint8 images (n, 3, size, size)."""
        pixels = images.cpu().numpy().transpose(0, 2, 3, 1)
        return self._features(images, self._embedder(images=pixels).projected)

    def encode_text(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Projected features (n, d) at unit length of token ids (n, tokens)."""
        return self._features(ids, self._embedder(text=ids.cpu().numpy()).projected)

    def eval(self) -> "Model":
        """Nothing here behaves differently in training."""
        return self

    @staticmethod
    def _features(like: "torch.Tensor", vectors: np.ndarray) -> "torch.Tensor":
        import torch

        return torch.from_numpy(np.ascontiguousarray(vectors)).to(like.device)


class Transform:
    """A PIL image as `oner_jax` evaluates it: its middle square, as uint8 (3, size, size)."""

    def __init__(self, size: int):
        self._size = size

    def __call__(self, image: Image.Image) -> "torch.Tensor":
        import torch

        return torch.from_numpy(encoder_pixels(image, self._size).transpose(2, 0, 1).copy())


def load_oner(
    *, pretrained: str, model_name: str = "", cache_dir: str | None = None, device: Any = "cpu"
) -> "tuple[Model, Transform, Any]":
    """Model, transform and tokenizer of WORKDIR or WORKDIR@STEP, as `load_clip` gives them.

    `model_name` and `cache_dir` are CLIP_benchmark's and say nothing here. The model runs on JAX's
    devices, whatever `device` is.
    """
    import torch

    folder, at, step = pretrained.rpartition("@")
    run = load_run(folder if at else pretrained, step if at else "last")
    tokenizer = Tokenizer.load(run.config.data.tokenizer)
    tokens = run.config.model.text_tokens

    def tokenize(texts: str | Sequence[str]) -> torch.Tensor:
        wanted = [texts] if isinstance(texts, str) else list(texts)
        return torch.from_numpy(tokenizer.encode(wanted, max_tokens=tokens))

    embedder = Embedder(run.model, run.parameters)
    return Model(embedder), Transform(run.config.model.image_size), tokenize


def register() -> None:
    """Make `--model_type=oner_jax` known to CLIP_benchmark."""
    from clip_benchmark import models

    models.TYPE2FUNC[MODEL_TYPE] = load_oner
    if MODEL_TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(MODEL_TYPE)


def main() -> None:
    """Run CLIP_benchmark's own program, with our model type as the default."""
    try:
        import torch  # noqa: F401  CLIP_benchmark imports it late
        from clip_benchmark import cli
    except ModuleNotFoundError as error:
        if flag_help.asked_for(sys.argv):
            print(__doc__)
            return
        missing = InputError(
            f"CLIP_benchmark is not installed ({error.name}): pip install "
            '"oner_jax[clip_benchmark]"'
        )
        sys.exit(report(missing))
    register()
    if "eval" in sys.argv[1:2]:
        own = ["--model_type", MODEL_TYPE, "--model", MODEL_TYPE]
        sys.argv[2:2] = own
    cli.main()


if __name__ == "__main__":
    main()
