"""Prompt templates of zero-shot classification: sentences that a class name is put into.

They are data, in `templates.json`. `names` suits captions that are bare names and keywords, as in
the embedded data (our choice). `imagenet_slip` is the set of seven that CLIP's authors selected on
ImageNet and SLIP (Mu et al., ECCV 2022) reports with; `imagenet_clip` (80) and the sets that bear
the names of other benchmarks are CLIP's (Radford et al., ICML 2021; `data/prompts.md` of its
repository, MIT licence). Wordings ("itap": I took a picture; "a origami") are kept as published,
since scores depend on them.
"""

import functools
import json
from importlib import resources

from oner_jax.configuration import nearest
from oner_jax.errors import InputError

# What stands beside a picture to guide it to a thing in it: the paper's wording, or, where captions
# are bare names, the name.
_PROMPT = "look at {}"
_PROMPTS = {"names": "{}"}


@functools.cache
def template_sets() -> dict[str, tuple[str, ...]]:
    """Every set by its name."""
    stored = resources.files("oner_jax.evals.inputs").joinpath("templates.json").read_text()
    return {name: tuple(templates) for name, templates in json.loads(stored).items()}


def prompt_template(name: str) -> str:
    """The prompt that goes with a template set."""
    template_set(name)
    return _PROMPTS.get(name, _PROMPT)


def template_set(name: str) -> tuple[str, ...]:
    """The templates of that name; raises `InputError` with the names there are."""
    known = template_sets()
    if name not in known:
        raise InputError(
            f"no template set {name!r}{nearest(name, known)}; there are: {', '.join(known)}"
        )
    return known[name]
