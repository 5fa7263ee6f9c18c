# SPDX-License-Identifier: Apache-2.0
"""The three doors to the long axis, here and over a mesh axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from orthoptax.matrix.inner import Inner, local
from orthoptax.matrix.newton_schulz import newton_schulz

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_local_against_numpy(dtype):
    x = RNG.normal(size=(2, 3, 7)) + (1j if dtype == np.complex64 else 0)
    y = RNG.normal(size=(2, 4, 7)) * (1j if dtype == np.complex64 else 1)
    a, b = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    want = np.einsum("bmn,bkn->bmk", x, y.conj())
    np.testing.assert_allclose(local.product(a, b), want, rtol=1e-5, atol=1e-5)
    squares = np.sum(np.abs(x) ** 2, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(local.squares(a), squares, rtol=1e-6)
    largest = np.abs(x).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(local.largest(a), largest, rtol=1e-6)


def test_sixteen_bit_products_accumulate_in_float32():
    x = jnp.ones((1, 4096), jnp.bfloat16)
    product = local.product(x, x)
    assert product.dtype == jnp.float32
    assert float(product[0, 0]) == 4096


@pytest.mark.parametrize("shape", [(4, 32), (2, 4, 32)])
def test_columns_over_a_mesh_axis_equal_whole_matrices(shape):
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    mesh = jax.make_mesh((8,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = P(*[None] * (len(shape) - 1), "tp")
    polar = newton_schulz()
    cut = jax.shard_map(
        lambda x: polar(x, inner=Inner("tp")), mesh=mesh, in_specs=spec, out_specs=spec
    )
    np.testing.assert_allclose(jax.jit(cut)(x), polar(x), rtol=0, atol=2e-6)


def test_columns_over_pmap_equal_whole_matrices():
    x = jnp.asarray(RNG.normal(size=(4, 32)), jnp.float32)
    polar = newton_schulz()
    pieces = jnp.stack(jnp.split(x, 8, axis=-1))
    out = jax.pmap(lambda x: polar(x, inner=Inner("i")), axis_name="i")(pieces)
    whole = np.concatenate(list(np.asarray(out)), axis=-1)
    np.testing.assert_allclose(whole, polar(x), rtol=0, atol=2e-6)
