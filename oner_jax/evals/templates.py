"""Prompt templates for zero-shot classification: sentences that a class name is put into.

`names` suits captions that are bare names and keywords, as in the embedded data. `imagenet_slip` is
the set of SLIP (Mu et al., ECCV 2022), which came from CLIP's prompt selection on ImageNet; its
wording ("itap": I took a picture; "a origami") is kept as published, since scores depend on it.
"""

from oner_jax.errors import InputError

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "names": ("{}", "{} icon", "{} symbol", "picture of {}", "drawing of {}"),
    "imagenet_slip": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}

# What stands beside a picture to guide it to a thing in it: METHOD's wording, or, where captions
# are bare names, the name.
PROMPTS = {"names": "{}", "imagenet_slip": "look at {}"}


def prompt_template(name: str) -> str:
    """The prompt that goes with a template set."""
    template_set(name)
    return PROMPTS[name]


def template_set(name: str) -> tuple[str, ...]:
    """The templates of that name; raises `InputError` with the names there are."""
    if name not in TEMPLATE_SETS:
        raise InputError(f"no template set {name!r}; there are: {', '.join(TEMPLATE_SETS)}")
    return TEMPLATE_SETS[name]
