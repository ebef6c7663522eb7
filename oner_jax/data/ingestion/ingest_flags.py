"""What the programs that ingest share of their command lines."""

import dataclasses
import os

from absl import flags

from oner_jax.command_line import flag_help, path_flags
from oner_jax.command_line.required_flags import required
from oner_jax.data import sources
from oner_jax.data.image_files import ImageOptions
from oner_jax.data.ingestion.options import ConversionOptions, Filters, IngestOptions, SourceName
from oner_jax.data.sources import source_flags as source_command_line
from oner_jax.files import Access

# A part is what a kill may cost each process: about three seconds of work.
EXAMPLES_PER_PART = 1000


def define_flags() -> None:
    """Define the flags of the source, the output and the conversion between them."""
    defaults = IngestOptions()
    images, filters = defaults.conversion.images, defaults.conversion.filters
    with flag_help.group("Source"):
        path_flags.define("source", None, "file, directory or pattern of the data to read")
        flags.DEFINE_enum(
            "format", "", ["", *sources.FORMATS], "format of the source; found if not given"
        )
        source_command_line.define_flags()
        path_flags.define(
            "image_directory", "", "folder of the images that an annotation file names"
        )
        path_flags.define("class_names", "", "file with the names of the classes")
        path_flags.define(
            "data_dir", "", "where TFDS keeps what it prepared; its default if not given", Access.GS
        )
        flags.DEFINE_list("splits", [], "splits to read; all if not given")
    with flag_help.group("Output"):
        path_flags.define("output", None, "directory to make", Access.STORE)
        flags.DEFINE_float(
            "validation_fraction",
            defaults.validation_fraction,
            "captions to hold out among examples without a split",
            lower_bound=0.0,
            upper_bound=0.5,
        )
        flags.DEFINE_integer(
            "vocabulary_size",
            defaults.vocabulary_size,
            "also train a tokenizer with this many ids; 0: none",
            lower_bound=0,
        )
        flags.DEFINE_integer(
            "shard_megabytes",
            defaults.shard_bytes // 2**20,
            "a shard is closed once it holds as many MiB",
            lower_bound=1,
        )
    with flag_help.group("Images and captions"):
        for name, default, help_text in (
            ("maximum_side", images.maximum_side, "pixels; larger images are shrunk; 0: none are"),
            (
                "minimum_side",
                filters.minimum_side,
                "pixels; images with a shorter side are dropped",
            ),
            (
                "minimum_caption_characters",
                filters.minimum_caption_characters,
                "shorter captions are dropped",
            ),
            (
                "maximum_caption_characters",
                filters.maximum_caption_characters,
                "longer captions are dropped; 0: none are",
            ),
        ):
            flags.DEFINE_integer(name, default, help_text, lower_bound=0)
        flags.DEFINE_float(
            "maximum_aspect",
            filters.maximum_aspect,
            "longer side over shorter; images beyond are dropped; 0: none are",
            lower_bound=0.0,
        )
        flags.DEFINE_enum(
            "unpaired",
            defaults.conversion.unpaired,
            ["drop", "keep"],
            "images without caption, captions without image: drop, or keep in splits of their own",
        )
        flags.DEFINE_boolean(
            "drop_duplicate_images",
            defaults.drop_duplicate_images,
            "keep the first of images whose files are equal, byte for byte",
        )


def chosen_options() -> IngestOptions:
    """What the flags say."""
    values = flags.FLAGS
    return IngestOptions(
        ConversionOptions(
            ImageOptions(maximum_side=values.maximum_side),
            Filters(
                **{field.name: values[field.name].value for field in dataclasses.fields(Filters)}
            ),
            values.unpaired,
        ),
        drop_duplicate_images=values.drop_duplicate_images,
        validation_fraction=values.validation_fraction,
        vocabulary_size=values.vocabulary_size,
        shard_bytes=values.shard_megabytes * 2**20,
    )


def chosen() -> tuple[list[sources.Part], SourceName, str, IngestOptions]:
    """The source's parts, its name, the output and the options. InputError for what is wrong."""
    name, output = required("source", "output")
    values = flags.FLAGS
    options = chosen_options()
    options.conversion.filters.check()
    source_format = values.format or sources.recognised_format(name)
    parts = sources.open_source(
        name,
        source_format,
        examples_per_part=EXAMPLES_PER_PART,
        names=source_command_line.chosen_names(),
        options=sources.Options(
            values.image_directory,
            values.class_names,
            values.data_dir,
            tuple(values.splits),
            source_command_line.chosen_lines(),
        ),
    )
    print(sources.taken_for(name, source_format, parts), flush=True)
    return parts, SourceName(os.path.basename(name.rstrip("/")), source_format), output, options
