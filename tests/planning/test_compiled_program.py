"""Counts read from compiled programs, against what the programs were written to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from oner_jax.parallel.mesh import make_mesh
from oner_jax.planning.compiled_program import Collective, Program, device_groups

MESH = make_mesh({"slice": 2, "data": 4, "fsdp": 1, "tensor": 1})
LAYERS, ROWS, WIDTH = 5, 16, 32


def compiled(function, *specs) -> str:
    """Of float32 [ROWS, WIDTH] arguments cut by `specs`."""
    arguments = [
        jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(MESH, spec))
        for spec in specs
    ]
    replicated = NamedSharding(MESH, PartitionSpec())
    text = jax.jit(function, out_shardings=replicated).lower(*arguments).compile().as_text()
    assert text is not None
    return text


def test_a_loops_body_counts_as_often_as_it_runs():
    def layers(x):
        def layer(x, _):
            return jnp.tanh(x @ jnp.ones((WIDTH, WIDTH)) @ jnp.ones((WIDTH, WIDTH))), None

        return jax.lax.scan(layer, x, None, length=LAYERS)[0]

    program = Program(compiled(layers, PartitionSpec(("slice", "data"))))
    rows_of_a_device = ROWS // 8
    products = LAYERS * 2 * (2 * rows_of_a_device * WIDTH * WIDTH)
    assert program.flops() == products
    # Each of them reads its factors and writes its result at the least.
    assert program.memory_bytes() > LAYERS * 2 * 4 * (WIDTH * WIDTH + 2 * rows_of_a_device * WIDTH)


@pytest.mark.parametrize(("axes", "crosses"), [(("slice", "data"), True), (("data",), False)])
def test_collectives_by_kind_group_and_whether_they_leave_the_slice(axes, crosses):
    @functools.partial(
        jax.shard_map, mesh=MESH, in_specs=PartitionSpec(axes), out_specs=PartitionSpec()
    )
    def total(x):
        def add(_, carry):
            return jax.lax.psum(x.sum(0) + carry, axes)

        return jax.lax.fori_loop(0, LAYERS, add, jnp.zeros(WIDTH))

    group = 8 if crosses else 4
    (found,) = Program(compiled(total, PartitionSpec(axes)), slices=2).collectives()
    sent = 2 * 4 * WIDTH * (group - 1) // group
    assert found == Collective("all-reduce", group, crosses, LAYERS, LAYERS * sent)


def test_a_gather_sends_what_the_others_lack():
    gather = compiled(lambda x: x + 1, PartitionSpec(("slice", "data")))
    (found,) = Program(gather, slices=2).collectives()
    assert found == Collective("all-gather", 8, True, 1, 4 * ROWS * WIDTH * 7 // 8)


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, to_apply=%add", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("channel_id=1, replica_groups={}", [[0, 1, 2, 3]]),
    ],
)
def test_device_groups(attributes, groups):
    assert device_groups(attributes, 4) == groups


# As the TPU compiler writes a loop and, as convolutions, a product and one with a batch of 3.
TPU_TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=2

%condition (p: (s32[], bf16[8,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(8)
  %p = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%fused (a: bf16[8,16], b: bf16[16,32]) -> bf16[8,32] {
  %a = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[8,32]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf
}

%started (x: bf16[8,16]) -> bf16[16,16] {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %g = bf16[16,16]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), GATHER
}

%ended (x: bf16[8,16]) -> bf16[16,16] {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %g = bf16[16,16]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), GATHER
}

%body (p: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %p = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} constant({...})
  %y = bf16[8,32]{1,0:T(8,128)(2,1)} fusion(%x, %w), kind=kOutput, calls=%fused
  %async-collective-start = bf16[16,16]{1,0:T(8,128)(2,1)S(1)} fusion(%w), calls=%started
  %async-collective-done = bf16[16,16]{1,0:T(8,128)(2,1)S(1)} fusion(%w), calls=%ended
  ROOT %t = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) tuple(%i, %x)
}

ENTRY %main (x: bf16[8,16]) -> bf16[8,16] {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %q = bf16[3,8,16]{2,1,0:T(8,128)(2,1)S(1)} constant({...})
  %k = bf16[3,4,16]{2,1,0:T(8,128)(2,1)S(1)} constant({...})
  %s = bf16[8,4,3]{1,0,2:T(8,128)(2,1)S(1)} convolution(%q, %k), WINDOW
  %z = (bf16[8,16]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%x, %token), channel_id=2, SEND
  %one = s32[]{:T(128)} constant(1)
  %first = s32[]{:T(128)} copy(%one)
  %t = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) tuple(%first, %x)
  ROOT %w = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) while(%t), LOOP
}
"""
TPU_TEXT = TPU_TEXT.replace("WINDOW", "window={size=3 stride=2 pad=0_0 lhs_dilate=3}, LABELS")
TPU_TEXT = TPU_TEXT.replace(
    "SEND",
    'frontend_attributes={_xla_megascale_target="{1,2}x{0:1}",'
    '_xla_megascale_transfer_type="ALL_REDUCE"}',
)
TPU_TEXT = TPU_TEXT.replace("GATHER", "channel_id=3, replica_groups={{0,1}}, dimensions={0}")
TPU_TEXT = TPU_TEXT.replace("LABELS", "dim_labels=0bf_0oi->bf0")
TPU_TEXT = TPU_TEXT.replace("LOOP", "condition=%condition, body=%body")


def test_the_tpu_compilers_text():
    program = Program(TPU_TEXT, slices=2)
    # One gather in two parts, in a loop from 1 to 8.
    assert program.collectives() == [
        Collective("all-gather", 2, False, 7, 7 * 8 * 16 * 2),
        Collective("all-reduce", 2, True, 1, 8 * 16 * 2),
    ]
    assert program.flops() == 7 * (2 * 8 * 16 * 32) + 2 * 3 * 8 * 4 * 16
    # The loop reads x and writes y in HBM; the rest is on the chip, but for the counter.
    assert program.memory_bytes() == 7 * 2 * (8 * 16 + 8 * 32) + 2 * 4


def test_a_convolution_counts_as_many_as_a_plain_loop():
    random = np.random.default_rng(0)
    image = jnp.asarray(random.normal(size=(2, 9, 9, 3)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(3, 3, 3, 4)), jnp.float32)

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    lowered = jax.jit(convolve).lower(image, kernel)
    text = lowered.compile().as_text()
    assert text is not None
    inside = sum(
        0 <= 2 * row + i - 1 < 9 and 0 <= 2 * column + j - 1 < 9
        for row in range(5)
        for column in range(5)
        for i in range(3)
        for j in range(3)
    )
    assert Program(text).flops() == 2 * 2 * inside * 3 * 4
