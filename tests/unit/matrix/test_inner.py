# SPDX-License-Identifier: Apache-2.0
"""The three doors to the long axis, here and over a mesh axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from orthoptax.matrix import (
    QUINTIC,
    aol,
    by_shape,
    degree_17,
    gram_newton_schulz,
    newton_schulz,
    spectral,
)
from orthoptax.matrix.inner import Inner, folded, local, unfolded

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


def test_products_are_as_asked():
    x = jnp.asarray([[1.0, 1.0 + 2.0**-12]])  # the second rounds to 1 in bfloat16
    assert float(local.product(x, x)[0, 0]) != 2
    rounded = local.computing(jnp.bfloat16)
    assert float(rounded.product(x, x)[0, 0]) == 2
    assert rounded.matmul(x, x.mT).dtype == jnp.float32
    for inner, name in ((rounded, "HIGHEST"), (local.computing(None, "high"), "HIGH")):
        text = jax.jit(inner.product).lower(x, x).as_text()
        assert f"[{name}, {name}]" in text
    assert Inner("tp").computing(None).axis_name == "tp"


def test_shape_is_that_of_the_whole_matrix():
    assert local.shape(jnp.ones((3, 4, 32))) == (4, 32)
    seen = []
    mesh = jax.make_mesh((8,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,))

    def local_part(x):
        seen.append((x.shape, Inner("tp").shape(x)))
        return x

    spec = P(None, "tp")
    jax.eval_shape(
        jax.shard_map(local_part, mesh=mesh, in_specs=spec, out_specs=spec),
        jnp.ones((4, 32)),
    )
    assert seen[0] == ((4, 4), (4, 32))


@pytest.mark.parametrize("k", [1, 2, 5, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_half_of_a_hermitian_matrix(k, dtype):
    x = RNG.normal(size=(2, k, 3)) + 1j * RNG.normal(size=(2, k, 3))
    x = np.asarray(x if dtype == np.complex64 else x.real, dtype)
    gram = x @ np.conj(np.swapaxes(x, -1, -2))
    packed = folded(jnp.asarray(gram))
    assert packed.size == 2 * k * (k + 1) // 2
    np.testing.assert_allclose(unfolded(packed, k), gram, rtol=1e-6, atol=1e-6)


def test_groups_have_a_matrix_each():
    """Eight devices in pairs: each pair sums over its own two halves."""
    x = RNG.normal(size=(8, 2, 3)).astype(np.float32)
    inner = Inner("i", groups=tuple((i, i + 1) for i in range(0, 8, 2)))

    def members(x):
        assert inner.shape(x[0]) == (2, 6)
        return [fn(x) for fn in (inner.gram, inner.squares, inner.largest)]

    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        members, mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=False
    )
    pairs = np.repeat(np.concatenate([x[::2], x[1::2]], axis=2), 2, axis=0)
    gram, squares, largest = jax.jit(mapped)(jnp.asarray(x))
    want = np.einsum("bmn,bkn->bmk", pairs, pairs)
    np.testing.assert_allclose(gram, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(squares[:, 0, 0], (pairs**2).sum((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(largest[:, 0, 0], np.abs(pairs).max((1, 2)))


POLARS = {
    "newton_schulz": newton_schulz(),
    "aol": newton_schulz(QUINTIC[1:], scale=aol()),
    "spectral": newton_schulz(scale=spectral()),
    "gram": gram_newton_schulz(),  # square in each shard, wide as a whole
    "degree_17": degree_17(),
    "by_shape": by_shape({(4, 32): QUINTIC}),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [("newton_schulz", (4, 32)), *((name, (2, 4, 32)) for name in POLARS)],
)
def test_columns_over_a_mesh_axis_equal_whole_matrices(name, shape, x64):
    x = jnp.asarray(RNG.normal(size=shape))
    mesh = jax.make_mesh((8,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = P(*[None] * (len(shape) - 1), "tp")
    polar = POLARS[name]
    cut = jax.shard_map(
        lambda x: polar(x, inner=Inner("tp")), mesh=mesh, in_specs=spec, out_specs=spec
    )
    np.testing.assert_allclose(jax.jit(cut)(x), polar(x), rtol=0, atol=1e-12)


def test_columns_over_pmap_equal_whole_matrices():
    x = jnp.asarray(RNG.normal(size=(4, 32)), jnp.float32)
    polar = newton_schulz()
    pieces = jnp.stack(jnp.split(x, 8, axis=-1))
    out = jax.pmap(lambda x: polar(x, inner=Inner("i")), axis_name="i")(pieces)
    whole = np.concatenate(list(np.asarray(out)), axis=-1)
    np.testing.assert_allclose(whole, polar(x), rtol=0, atol=2e-6)
