"""What a compiled program does in one run: products, memory traffic and collectives.

Read from the text of the optimised HLO, because XLA's own cost analysis counts the body of a loop
once. Here a computation counts as often as it runs: a loop's body times the loop's trips.
"""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from oner_jax.planning.hlo import Instruction, Shape, called, device_count, field, numbers, parse

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)


_NO_TRAFFIC = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"}
_NO_TRAFFIC |= {"conditional", "after-all", "partition-id", "replica-id", "iota", "send", "recv"}
_MEGASCALE = "_xla_megascale"
# The TPU compiler spreads a collective over fusions that also compute: it is written out again in
# each of them and in the last. Matches a fusion's name and the computation that it calls.
_CONTINUED = r"async-collective-done|\S+ async_collective_fusion"
# Bookkeeping of the TPU compiler that moves nothing.
_FREE_CALLS = r'custom_call_target="(AllocateBuffer|ConcatBitcast|Assume\w+)"'


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over groups of one size: how many a run, and bytes a device sends.

    Bytes as a ring sends them: of n bytes in a group of g, an all-reduce 2 n (g-1)/g, a gather or
    scatter n (g-1)/g with n the larger side, a permutation n.
    """

    kind: str
    group_size: int
    crosses_slices: bool
    count: int
    bytes: int


class Program:
    """A parsed module of a program for `slices` equal parts of the devices, in order.

    The TPU compiler writes the program of one slice, with transfers by the host ("megascale") for
    what crosses; otherwise the module is that of all devices.
    """

    def __init__(self, text: str, slices: int = 1):
        self._computations = parse(text)
        self._entry = field(r"(?m)^ENTRY %?([\w.\-]+)", text)[1]
        self._devices = device_count(text)
        self._slice_devices = self._devices // (1 if _MEGASCALE in text else slices)
        self._fused: set[str] = set()
        self._continued: set[str] = set()
        self._runs = self._count_runs()

    def flops(self) -> int:
        """Two for every multiply-add of products and convolutions."""
        return sum(
            runs * _product_flops(instruction, shapes)
            for instruction, shapes, runs in self._instructions()
            if instruction.opcode in ("dot", "convolution")
        )

    def memory_bytes(self) -> int:
        """Bytes read from and written to HBM, as if nothing stayed on the chip unasked.

        A fusion reads its operands and writes its result once; of what it slices or updates in
        place, only the slice.
        """
        return sum(
            runs * self._traffic(instruction, shapes)
            for instruction, shapes, runs in self._instructions(fused=False)
            if instruction.opcode not in _NO_TRAFFIC and not instruction.opcode.endswith("-done")
        )

    def collectives(self) -> list[Collective]:
        """By kind and group, most bytes first."""
        counts: Counter[tuple[str, int, bool]] = Counter()
        sent: Counter[tuple[str, int, bool]] = Counter()
        for computation, instruction, runs in self._named_instructions():
            kind = instruction.opcode.removesuffix("-start")
            if instruction.opcode == "send" and _MEGASCALE in instruction.attributes:
                key, size = _megascale(instruction), instruction.shapes[0].bytes
            elif kind in COLLECTIVES and computation not in self._continued:
                groups = device_groups(instruction.attributes, self._devices)
                key = (kind, len(groups[0]), self._cross(groups))
                size = _bytes_sent(kind, _results(instruction), len(groups[0]))
            else:
                continue
            counts[key] += runs
            sent[key] += runs * size
        ordered = sorted(counts, key=lambda key: -sent[key])
        return [Collective(*key, counts[key], sent[key]) for key in ordered]

    def _cross(self, groups: list[list[int]]) -> bool:
        return any(len({device // self._slice_devices for device in group}) > 1 for group in groups)

    def _named_instructions(self) -> Iterator[tuple[str, Instruction, int]]:
        """Every instruction that runs, with its computation's name, and how often."""
        for name, runs in self._runs.items():
            for instruction in self._computations[name]:
                yield name, instruction, runs

    def _instructions(
        self, fused: bool = True
    ) -> Iterator[tuple[Instruction, Mapping[str, Sequence[Shape]], int]]:
        """The same, with shapes by name; not `fused`: without what runs inside a fusion."""
        shapes = {
            name: {each.name: each.shapes for each in self._computations[name]}
            for name in self._runs
        }
        for name, instruction, runs in self._named_instructions():
            if fused or name not in self._fused:
                yield instruction, shapes[name], runs

    def _count_runs(self) -> dict[str, int]:
        runs: dict[str, int] = defaultdict(int)

        def visit(name: str, times: int, fused: bool = False) -> None:
            runs[name] += times
            if fused:
                self._fused.add(name)
            around = {each.name: each for each in self._computations[name]}
            for instruction in self._computations[name]:
                trips = self._trips(instruction, around) if instruction.opcode == "while" else 1
                for body in called(instruction):
                    if re.match(_CONTINUED, f"{instruction.name} {body}"):
                        self._continued.add(body)
                    visit(body, times * trips, fused or instruction.opcode == "fusion")

        visit(self._entry, 1)
        return runs

    def _traffic(self, instruction: Instruction, shapes: Mapping[str, Sequence[Shape]]) -> int:
        if instruction.opcode != "fusion":
            part = _part_bytes(instruction, shapes)
            if part is not None:
                return part
            return sum(map(_hbm_bytes, [instruction.shapes, *_operand_shapes(instruction, shapes)]))
        body = called(instruction)[0]
        read = sum(
            self._parameter_bytes(body, index)
            for index, operand in enumerate(_operand_shapes(instruction, shapes))
            if _hbm_bytes(operand)
        )
        return read + self._written_bytes(body, instruction.shapes)

    def _parameter_bytes(self, name: str, index: int) -> int:
        """What a fused computation reads of its parameter `index`."""
        body = self._computations[name]
        shapes = {each.name: each.shapes for each in body}
        (parameter,) = (
            each for each in body if each.opcode == "parameter" and each.operands == (str(index),)
        )
        aliases, total = {parameter.name}, 0
        for each in body:
            if not aliases & set(each.operands):
                continue
            if each.opcode == "bitcast":
                aliases.add(each.name)
            elif each.opcode == "dynamic-slice":
                total += _plain_bytes(each.shapes)
            elif each.opcode == "dynamic-update-slice" and each.operands[0] in aliases:
                continue
            elif each.opcode == "fusion":
                total += sum(
                    self._parameter_bytes(called(each)[0], position)
                    for position, operand in enumerate(each.operands)
                    if operand in aliases
                )
            else:
                return _plain_bytes(parameter.shapes)
        return min(total, _plain_bytes(shapes[parameter.name]))

    def _written_bytes(self, name: str, results: Sequence[Shape]) -> int:
        """What a fused computation writes: of an update in place, the part updated."""
        body = {each.name: each for each in self._computations[name]}
        (root,) = (each for each in body.values() if each.root)
        makers = [body[operand] for operand in root.operands] if root.opcode == "tuple" else [root]
        if len(makers) != len(results):
            return _hbm_bytes(results)
        total = 0
        for maker, result in zip(makers, results, strict=True):
            while maker.opcode == "bitcast":
                maker = body[maker.operands[0]]
            if maker.opcode == "dynamic-update-slice" and not result.on_chip:
                total += _plain_bytes(body[maker.operands[1]].shapes)
            else:
                total += _hbm_bytes([result])
        return total

    def _trips(self, loop: Instruction, around: Mapping[str, Instruction]) -> int:
        """A loop's trips: what XLA states, else from its counter's start to what that is below.

        The counter of a loop whose first trips were peeled off starts above 0.
        """
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        condition = self._computations[field(r"condition=%?([\w.\-]+)", loop.attributes)[1]]
        bounds = [int(each.operands[0]) for each in condition if _is_counter_constant(each)]
        if len(bounds) != 1:
            return 1
        counter = next((each for each in condition if each.opcode == "get-tuple-element"), None)
        index = int(field(r"index=(\d+)", counter.attributes)[1]) if counter else 0
        start = around[loop.operands[0]]
        while start.opcode in ("tuple", "copy", "bitcast"):
            start = around[start.operands[index if start.opcode == "tuple" else 0]]
        return bounds[0] - (int(start.operands[0]) if _is_counter_constant(start) else 0)


def _is_counter_constant(instruction: Instruction) -> bool:
    return instruction.opcode == "constant" and instruction.shapes[0].element == "s32"


def _megascale(send: Instruction) -> tuple[str, int, bool]:
    """Kind and group size of a transfer between slices: a device and its like in the others."""
    kind = field(_MEGASCALE + r'_transfer_type="(\w+)"', send.attributes)[1]
    target = re.search(_MEGASCALE + r'_target="\{([\d,]+)\}', send.attributes)
    slices = len(numbers(target[1])) if target else 2
    return kind.lower().replace("_", "-"), slices, True


def device_groups(attributes: str, devices: int) -> list[list[int]]:
    """The groups of device numbers that a collective's attributes name; no group: all devices."""
    pairs = re.search(r"source_target_pairs=\{\{(.*?)\}\}", attributes)
    listed = pairs or re.search(r"replica_groups=\{\{(.*?)\}\}", attributes)
    if listed:
        return [[int(device) for device in group.split(",")] for group in listed[1].split("},{")]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        ids = np.arange(math.prod(numbers(iota[2]))).reshape(numbers(iota[2]))
        if iota[3]:
            ids = ids.transpose(numbers(iota[3]))
        return ids.reshape(numbers(iota[1])).tolist()
    mesh = re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\S+)? *\{(.*?)\}", attributes)
    if mesh:
        return _mesh_groups(mesh[1], mesh[2])
    return [list(range(devices))]


def _mesh_groups(axes: str, grouped: str) -> list[list[int]]:
    """Groups over some axes of a mesh, `'a'=2,'b'=8` and `'b'` or, of a part, `'b':(2)4`."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    inside: list[int] = []
    shape: list[int] = []
    parts = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", grouped)
    }
    for name, size in sizes.items():
        before, part = parts.get(name, (size, 1))
        if name in parts:
            inside.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    ids = np.arange(math.prod(shape)).reshape(shape)
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    size = math.prod(shape[axis] for axis in inside)
    return ids.transpose([*outside, *inside]).reshape(-1, size).tolist()


def _operand_shapes(
    instruction: Instruction, shapes: Mapping[str, Sequence[Shape]]
) -> list[Sequence[Shape]]:
    return [shapes.get(operand, ()) for operand in instruction.operands]


def _plain_bytes(shapes: Sequence[Shape]) -> int:
    return sum(shape.bytes for shape in shapes)


def _hbm_bytes(shapes: Sequence[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if not shape.on_chip)


def _part_bytes(instruction: Instruction, shapes: Mapping[str, Sequence[Shape]]) -> int | None:
    """Traffic of an instruction that copies, slices or updates a part; None for any other."""
    match instruction.opcode:
        case "dynamic-slice":
            return 2 * _plain_bytes(instruction.shapes)
        case "dynamic-update-slice":
            return 2 * _plain_bytes(shapes.get(instruction.operands[1], ()))
        case "copy-start" | "slice-start":
            ends = instruction.shapes[:2]
            moved = min(shape.bytes for shape in ends)
            return sum(moved for shape in ends if not shape.on_chip)
        case "custom-call" if re.search(_FREE_CALLS, instruction.attributes):
            return 0
    return None


def _results(instruction: Instruction) -> list[Shape]:
    """What a collective makes; the type of one that only starts also lists what it reads."""
    shapes = list(instruction.shapes)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        shapes = [shape for shape in shapes if shape.sizes]
        return shapes[len(shapes) // 2 :]
    return shapes


def _bytes_sent(kind: str, results: Sequence[Shape], group_size: int) -> int:
    size = sum(shape.bytes for shape in results)
    if kind in ("collective-permute", "collective-broadcast"):
        return size
    others = size * (group_size - 1) // group_size
    if kind == "all-reduce":
        return 2 * others
    return others * group_size if kind == "reduce-scatter" else others


def _product_flops(instruction: Instruction, shapes: Mapping[str, Sequence[Shape]]) -> int:
    outputs = math.prod(instruction.shapes[0].sizes)
    left, right = (shapes[name][0].sizes for name in instruction.operands[:2])
    if instruction.opcode == "dot":
        contracted = field(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        return 2 * outputs * math.prod(left[axis] for axis in numbers(contracted[1]))
    return 2 * _multiplications(instruction, left, right)


def _multiplications(
    convolution: Instruction, left: tuple[int, ...], right: tuple[int, ...]
) -> int:
    """Multiply-adds of a convolution, those with padding and with holes of a dilation left out.

    The TPU compiler writes every product as a convolution, batches as such holes.
    """
    labels = field(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    window = re.search(r"window=\{(.*?)\}", convolution.attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    total = right[labels[2].index("i")]
    for label in ("b", "f"):
        total *= convolution.shapes[0].sizes[labels[3].index(label)]
    batch_groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    total //= int(batch_groups[1]) if batch_groups else 1
    for axis in range(sum(label.isdigit() for label in labels[1])):

        def option(name: str, default: str, axis: int = axis) -> str:
            return fields[name].split("x")[axis] if name in fields else default

        total *= _positions(
            size=left[labels[1].index(str(axis))],
            outputs=convolution.shapes[0].sizes[labels[3].index(str(axis))],
            window=int(option("size", "1")),
            stride=int(option("stride", "1")),
            padding=int(option("pad", "0_0").split("_")[0]),
            size_dilation=int(option("lhs_dilate", "1")),
            window_dilation=int(option("rhs_dilate", "1")),
        )
    return total


def _positions(
    *,
    size: int,
    outputs: int,
    window: int,
    stride: int,
    padding: int,
    size_dilation: int,
    window_dilation: int,
) -> int:
    """Pairs of an output and a window position that meet an input, along one dimension."""
    places = np.arange(outputs)[:, None] * stride + np.arange(window) * window_dilation - padding
    inside = (places >= 0) & (places <= (size - 1) * size_dilation)
    return int(np.sum(inside & (places % size_dilation == 0)))
