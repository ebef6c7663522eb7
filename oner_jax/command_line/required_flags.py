"""What the programs that make data share about their command lines."""

from absl import flags

from oner_jax.errors import InputError


def required(*names: str) -> list[str]:
    """The values of these flags. InputError at the first that was not given."""
    values = []
    for name in names:
        value: str | None = flags.FLAGS[name].value
        if value is None:
            raise InputError(f"--{name} is missing: give the {flags.FLAGS[name].help}")
        values.append(value)
    return values
