"""Which kernel attention runs on, and padding as a length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from oner_jax.errors import InputError
from oner_jax.models.attention import Attention, attention_implementation
from oner_jax.models.segments import make_segments
from oner_jax.models.tower import Tower
from tests import small


@pytest.mark.parametrize(
    ("backend", "changes", "kernel"),
    [
        ("cpu", {"dtype": "bfloat16"}, "xla"),
        ("tpu", {"dtype": "bfloat16"}, "xla"),
        ("gpu", {"dtype": "bfloat16"}, "cudnn"),
        ("gpu", {"dtype": "bfloat16", "attention": "cudnn"}, "cudnn"),
        ("gpu", {"dtype": "bfloat16", "attention": "xla"}, "xla"),
        ("gpu", {"dtype": "float32"}, "xla"),
        ("gpu", {"dtype": "bfloat16", "width": 24}, "xla"),
    ],
)
def test_kernel_by_backend(monkeypatch, backend, changes, kernel):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert attention_implementation(small.settings(**changes)) == kernel


@pytest.mark.parametrize(
    ("backend", "dtype"), [("cpu", "bfloat16"), ("gpu", "float32")], ids=["no GPU", "float32"]
)
def test_cudnn_where_it_cannot_be_is_bad_input(monkeypatch, backend, dtype):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with pytest.raises(InputError, match="'cudnn' needs a GPU"):
        attention_implementation(small.settings(attention="cudnn", dtype=dtype))


def test_padding_is_as_if_it_were_not_there():
    settings = small.settings()
    tower = Tower(settings, settings.depth, rngs=nnx.Rngs(0))
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7, settings.width)), jnp.float32)
    mask = jnp.arange(7)[None] < 4
    padded = tower(tokens, make_segments([7], [0]), [mask], [None])[0][:, :4]
    cut = tower(tokens[:, :4], make_segments([4], [0]), [None], [None])[0]
    np.testing.assert_allclose(padded, cut, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_gradient_of_attention_is_that_of_jax_own(padded):
    random = np.random.default_rng(0)
    query, key, value, cotangent = (
        jnp.asarray(random.normal(size=(3, length, 2, 8)), jnp.float32) for length in (5, 7, 7, 5)
    )
    lengths = jnp.array([7, 1, 4]) if padded else None
    attention = Attention(small.settings(), rngs=nnx.Rngs(0))

    def ours(query, key, value):
        return jnp.vdot(attention._attend(query, key, value, lengths), cotangent)

    def peer(query, key, value):
        output = jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths)
        return jnp.vdot(output, cotangent)

    expected = jax.value_and_grad(peer, (0, 1, 2))(query, key, value)
    actual = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(query, key, value)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected
    )
