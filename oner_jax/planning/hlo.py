"""The text of an optimised HLO module, parsed: computations of instructions with their shapes."""

import dataclasses
import math
import re
from typing import NamedTuple

_ELEMENT_BYTES = {"pred": 1, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s16": 2, "u16": 2}
_ELEMENT_BYTES |= {"bf16": 2, "f16": 2, "s8": 1, "u8": 1, "s4": 1, "u4": 1, "f32": 4}
_ELEMENT_BYTES |= {"s32": 4, "u32": 4}


class Shape(NamedTuple):
    """One array of an instruction's type. `on_chip`: in the compiler's scratchpad, not in HBM."""

    element: str
    sizes: tuple[int, ...]
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        return _ELEMENT_BYTES.get(self.element, 1) * math.prod(self.sizes)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: `name = shapes opcode(operands), attributes`."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool


def parse(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation, by its name."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header[1], [])
            continue
        found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
        if found:
            current.append(_instruction(found[2], found[3], root=bool(found[1])))
    return computations


def _instruction(name: str, rest: str, *, root: bool) -> Instruction:
    kind, rest = _split_type(rest)
    opcode, _, rest = rest.partition("(")
    operands, attributes = _split_at_close(rest)
    if opcode in ("constant", "parameter"):
        names = (operands,)
    else:
        names = tuple(re.findall(r"%([\w.\-]+)", operands))
    shapes = tuple(
        Shape(element, numbers(sizes), "S(1)" in (layout or ""))
        for element, sizes, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", kind)
    )
    return Instruction(name, shapes, opcode, names, attributes, root)


def _split_type(rest: str) -> tuple[str, str]:
    """`TYPE opcode(...)` in two; a tuple's type has spaces within its parentheses."""
    if not rest.startswith("("):
        kind, _, rest = rest.partition(" ")
        return kind, rest
    kind, rest = _split_at_close(rest[1:])
    return kind, rest.lstrip()


def _split_at_close(text: str) -> tuple[str, str]:
    """Before and after the parenthesis that closes one opened before `text`."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return text[: found.start()], text[found.end() :]
    return text, ""


def field(pattern: str, text: str) -> re.Match[str]:
    """What `pattern` finds in `text`. Raises ValueError where it is not there."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"HLO without {pattern}: {text[:200]}")
    return found


def numbers(text: str) -> tuple[int, ...]:
    """The integers of a comma-separated list, as HLO writes shapes and dimensions."""
    return tuple(int(number) for number in text.split(",") if number)


def called(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs, but for loop conditions and reductions' steps."""
    names = re.findall(r"\b(?:body|calls)=%?([\w.\-]+)", instruction.attributes)
    if instruction.opcode == "call":
        names += re.findall(r"\bto_apply=%?([\w.\-]+)", instruction.attributes)
    branches = re.search(r"branch_computations=\{(.*?)\}", instruction.attributes)
    if branches:
        names += re.findall(r"%?([\w.\-]+)", branches[1])
    return names


def device_count(text: str) -> int:
    """Partitions and replicas of the module; 1 where neither is stated."""
    header = text.split("\n", 1)[0]
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
    return math.prod(int(count) for count in counts)
