"""Export a trained model: `python -m oner_jax.export --workdir=RUN --format=safetensors --out=DIR`.

`--format` takes several: safetensors, orbax, stablehlo, savedmodel, onnx. Each ends with a
comparison with the trained model on fixed pictures and texts; the folder appears when all of them
have passed, or not at all. `--step=best`, or `--average=1000,2000,3000` for the mean of several
checkpoints; `--weights=momentum` takes the momentum twin. `--workdir` may also be an export.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from oner_jax import configuration
from oner_jax.command_line import path_flags
from oner_jax.command_line.program import run_program
from oner_jax.command_line.required_flags import required
from oner_jax.errors import InputError
from oner_jax.exporting import parity
from oner_jax.exporting.folder import whole_folder, write_account, write_shared
from oner_jax.exporting.formats import FORMATS
from oner_jax.exporting.source import DTYPES, Source, open_source
from oner_jax.files import Access


def export(source: Source, formats: Sequence[str], out: Path) -> dict[str, dict[str, float]]:
    """Write `formats` of the model into a new folder `out`; differences by format and view.

    Raises InputError for an unknown format, something in the way, and a format that does not
    compute what the trained model does; then there is no `out`.
    """
    check_formats(formats)
    differences = {}
    with whole_folder(out) as folder:
        write_shared(source, folder)
        for name in formats:
            FORMATS[name].write(source, folder)
            differences[name] = parity.check(name, source, FORMATS[name].read(source, folder))
            print(f"{name}: largest difference {_shown(differences[name])}", flush=True)
        write_account(source, folder, formats, differences)
    return differences


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError for a name that is no format, and for none."""
    for name in formats or ("",):
        if name not in FORMATS:
            raise InputError(
                f"--format={name}: there is no such format{configuration.nearest(name, FORMATS)}; "
                f"formats are {', '.join(FORMATS)}"
            )


def _shown(differences: dict[str, float]) -> str:
    return ", ".join(f"{view} {value:.1e}" for view, value in differences.items())


def define_flags() -> None:
    """The program's command line."""
    described = "; ".join(f"{name}: {row.description}" for name, row in FORMATS.items())
    path_flags.define("workdir", None, "folder of the run, or of another export", Access.STORE)
    path_flags.define("out", None, "folder to make", Access.LOCAL)
    flags.DEFINE_list("format", ["safetensors"], f"Any of: {described}.")
    flags.DEFINE_string("step", "last", "Checkpoint: a step, last, or best.")
    flags.DEFINE_list("average", [], "Steps whose weights are averaged, in place of --step.")
    flags.DEFINE_enum("weights", "online", ["online", "momentum"], "Which weights.")
    flags.DEFINE_enum("dtype", DTYPES[0], DTYPES, "What is stored and computed in.")


def main(_: Sequence[str]) -> None:
    """Export as the flags say."""
    values = flags.FLAGS
    workdir, out = required("workdir", "out")
    check_formats(values.format)
    if values.average and values["step"].present:
        raise InputError("--step and --average: give one of them")
    if not all(step.isdigit() for step in values.average):
        raise InputError(f"--average={','.join(values.average)}: give steps, as 1000,2000")
    source = open_source(
        workdir,
        step=values.step,
        weights=values.weights,
        average=[int(step) for step in values.average],
        dtype=values.dtype,
    )
    export(source, values.format, Path(out))
    print(f"exported {', '.join(values.format)} to {out}")


if __name__ == "__main__":
    define_flags()
    run_program(main)
