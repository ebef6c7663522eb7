"""Options about what is in a source, which every program that reads sources has."""

from absl import flags

from oner_jax.data.sources.fields import FieldNames
from oner_jax.data.sources.sample import LINES

# Flags that are defined here belong to the module that asked for them: `--help` lists them there.
flags.disclaim_key_flags()


def define_flags() -> None:
    """Define the flags that name fields and say what lines of a text file are."""
    flags.DEFINE_string(
        "image_field", "", "field of the image; guessed if not given; none: there is none"
    )
    flags.DEFINE_list(
        "caption_field", [], "fields of captions, the main one first; guessed if not given"
    )
    flags.DEFINE_string("id_field", "", "field of the id; guessed if not given")
    flags.DEFINE_enum(
        "lines", LINES[0], LINES, "lines of a text file next to an image: one caption, or one each"
    )


def chosen_names() -> FieldNames:
    """Return the names of fields that the flags give."""
    values = flags.FLAGS
    return FieldNames(values.image_field, tuple(values.caption_field), values.id_field)


def chosen_lines() -> str:
    """Return what `Options` call the chosen meaning of lines; empty for the default."""
    return "" if flags.FLAGS.lines == LINES[0] else flags.FLAGS.lines
