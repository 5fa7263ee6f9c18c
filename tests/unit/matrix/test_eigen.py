# SPDX-License-Identifier: Apache-2.0
"""The factor by eigenvalues of the Gram matrix, against NumPy's SVD and its own law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from orthoptax.matrix import JORDAN, Inner, eigh
from orthoptax.matrix.choose import measures

RNG = np.random.default_rng(0)
EPS = float(np.finfo(np.float32).eps)


def made(values, m, n):
    """(matrix of these singular values, its left and right singular vectors)."""
    u = np.linalg.qr(RNG.normal(size=(m, m)))[0]
    v = np.linalg.qr(RNG.normal(size=(n, m)))[0]
    return u * np.asarray(values) @ v.T, u, v


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 7), (7, 1), (2, 4, 6)])
def test_against_numpy(shape):
    x = RNG.normal(size=shape)
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    with jax.enable_x64(True):
        got = eigh()(jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(got, u @ vh, atol=1e-11)


@pytest.mark.parametrize(("m", "n"), [(12, 12), (12, 40), (40, 12)])
def test_values_below_the_floor_are_lifted_by_one_slope(m, n):
    values = np.geomspace(1, 1e-6, 12)
    x, u, v = made(values, 12, max(m, n))
    floor = 1e-4
    with jax.enable_x64(True):
        x = jnp.asarray(x if m <= n else x.T, jnp.float64)
        got = np.asarray(eigh(floor=floor)(x))
    want = u * (values / np.maximum(values, floor**0.5)) @ v.T
    np.testing.assert_allclose(got, want if m <= n else want.T, atol=1e-9)


def test_the_floor_of_the_dtype_keeps_the_rule_and_no_more():
    values = np.geomspace(1, 1e-5, 16)
    x, u, v = made(values, 16, 48)
    got = np.asarray(eigh()(jnp.asarray(x, jnp.float32)), np.float64)
    response = np.diag(u.T @ got @ v)
    slope = (30 * EPS) ** -0.5
    np.testing.assert_allclose(response, np.minimum(slope * values, 1), atol=0.1)
    np.testing.assert_allclose(response[values > 0.01], 1, atol=2e-3)
    assert 0.95 * slope < measures(JORDAN).slope <= slope


def test_rank_one_and_zero():
    x = np.outer(RNG.normal(size=6), RNG.normal(size=9))
    got = np.asarray(eigh()(jnp.asarray(x, jnp.float32)))
    # Rounding of the directions without values, eps, is lifted by the slope of 529.
    np.testing.assert_allclose(got, x / np.linalg.norm(x), atol=529 * EPS)
    assert np.all(np.asarray(eigh()(jnp.zeros((2, 3, 5)))) == 0)


def test_16_bits_come_and_go_but_nothing_is_computed_in_them():
    x = jnp.asarray(RNG.normal(size=(4, 9)), jnp.bfloat16)
    out = eigh()(x)
    u, _, vh = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), u @ vh, atol=2.0**-8)
    with pytest.raises(ValueError, match=r"eigh: compute_dtype=bfloat16 has 16 .*\. E"):
        eigh(compute_dtype=jnp.bfloat16)


@pytest.mark.parametrize("floor", [-1e-3, 1.0, float("nan")])
def test_a_floor_is_in_its_range(floor):
    with pytest.raises(ValueError, match=rf"eigh: floor={floor} is out .*\. Expected"):
        eigh(floor=floor)


@pytest.mark.parametrize("batch", [2, 4])  # each device all of them; each its share
def test_columns_over_a_mesh(batch):
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("tp",))
    spec = P(None, None, "tp")
    x = RNG.normal(size=(batch, 6, 32))
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    fn = lambda x: eigh()(x, inner=Inner("tp"))
    cut = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(cut(jnp.asarray(x, jnp.float32)), u @ vh, atol=1e-4)
