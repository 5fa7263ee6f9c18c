# SPDX-License-Identifier: Apache-2.0
"""Block products against plain ones, their cost counted, and inside the iterations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from orthoptax.matrix import (
    JORDAN,
    block_products,
    gram_newton_schulz,
    newton_schulz,
)
from orthoptax.matrix.inner import Inner, local
from orthoptax.matrix.symmetric import multiplications

RNG = np.random.default_rng(0)
HIGHEST = jax.lax.Precision.HIGHEST


@pytest.mark.parametrize(("levels", "rows"), [(1, 8), (2, 7), (2, 1)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_results_are_those_of_plain_products_and_hermitian(levels, rows, dtype):
    x = RNG.normal(size=(2, rows, 11)).astype(dtype)
    x += 1j * RNG.normal(size=x.shape) if dtype == "complex128" else 0
    ours = jax.tree.map(
        functools.partial(jax.jit, static_argnums=-1), block_products(levels)
    )
    with jax.enable_x64(True):
        gram = np.asarray(ours.gram(jnp.asarray(x), HIGHEST))
        want = x @ np.swapaxes(x, -1, -2).conj()
        np.testing.assert_allclose(gram, want, rtol=0, atol=1e-13)
        other = want @ want + 3 * want
        both = np.asarray(
            ours.commuting(jnp.asarray(want), jnp.asarray(other), HIGHEST)
        )
    np.testing.assert_allclose(both, want @ other, rtol=1e-12, atol=1e-8)
    for result in (gram, both):
        np.testing.assert_array_equal(result, np.swapaxes(result, -1, -2).conj())


@pytest.mark.parametrize(("levels", "price"), [(1, 3 / 4), (2, 5 / 8), (3, 9 / 16)])
def test_price_by_formula(levels, price):
    assert multiplications(64, 256, levels) == price * 64 * 64 * 256
    assert multiplications(64, 256) == 64 * 64 * 256
    assert multiplications(7, 10, levels) < 49 * 10


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize(("rows", "cols"), [(64, 64), (64, 256), (37, 101)])
def test_price_by_count(levels, rows, cols):
    ours = block_products(levels)
    x = jnp.ones((rows, cols))
    lowered = jax.jit(lambda x: ours.gram(x, HIGHEST)).lower(x)
    for program in (lowered, lowered.compile()):
        flops = program.cost_analysis()["flops"]
        products = 2 * multiplications(rows, cols, levels)
        assert products <= flops <= products + 3 * rows * rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_in_single_precision_and_operands_as_asked(dtype):
    # Above 256 bfloat16 rounds whole numbers; float32 holds all their sums exactly.
    x = jnp.asarray(RNG.integers(-400, 401, size=(16, 64)), jnp.float32)
    inner = local.computing(dtype, None, block_products(2))
    gram = inner.gram(x)
    assert gram.dtype == jnp.float32
    rounded = np.asarray(x.astype(dtype), np.float64)
    np.testing.assert_array_equal(gram, rounded @ rounded.T)


def test_inner_without_products_multiplies_plainly():
    x = jnp.asarray(RNG.normal(size=(6, 9)), jnp.float32)
    np.testing.assert_array_equal(local.gram(x), local.matmul(x, x.T))
    np.testing.assert_array_equal(
        local.commuting(x[:, :6], x[:, 3:]), local.matmul(x[:, :6], x[:, 3:])
    )


KERNELS = {"plain": newton_schulz, "gram": gram_newton_schulz}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_multiply_as_asked(kernel):
    x = jnp.asarray(RNG.normal(size=(2, 12, 40)), jnp.float32)
    got = jax.jit(KERNELS[kernel](JORDAN, products=block_products(2)))(x)
    want = jax.jit(newton_schulz(JORDAN))(x)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_price_of_a_whole_iteration():
    m, n = 64, 256
    polar = newton_schulz(JORDAN, products=block_products(2), unroll=True)
    flops = jax.jit(polar).lower(jnp.ones((m, n))).cost_analysis()["flops"]
    units = flops / (2 * m**3)  # of section 1: s (r + 1) + r a quintic
    assert units == pytest.approx(5 * (5 / 8 * 5 + 4), rel=0.05)
    products = block_products(2)
    gram = gram_newton_schulz(JORDAN, restarts=(), products=products, unroll=True)
    flops = jax.jit(gram).lower(jnp.ones((m, n))).cost_analysis()["flops"]
    assert flops / (2 * m**3) == pytest.approx(5 / 8 * (20 - 3 + 4) + 4, rel=0.05)


@pytest.mark.parametrize("kernel", KERNELS)
def test_columns_over_a_mesh_are_summed_folded(kernel):
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("tp",))
    polar = KERNELS[kernel](JORDAN, products=block_products(1))
    x = jnp.asarray(RNG.normal(size=(2, 6, 16)), jnp.float32)
    spec = P(None, None, "tp")
    cut = jax.jit(
        jax.shard_map(
            lambda x: polar(x, inner=Inner("tp")),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
        )
    )
    np.testing.assert_allclose(cut(x), jax.jit(polar)(x), rtol=0, atol=2e-5)
    text = cut.lower(x).as_text()
    assert "2x6x6xf32>) -> tensor<2x6x6xf32>" not in text.replace("dot_general", "")


def test_levels_are_a_number():
    with pytest.raises(ValueError, match=r"block_products: levels=0 is out of range"):
        block_products(0)
