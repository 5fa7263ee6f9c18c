# SPDX-License-Identifier: Apache-2.0
"""The exact factor against NumPy's SVD and against what makes it a polar factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import Inner, eigh, small_side_first, svd

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 7), (7, 1), (2, 4, 6)])
def test_against_numpy(shape):
    x = RNG.normal(size=shape)
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    with jax.enable_x64(True):
        got = svd()(jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(got, u @ vh, atol=1e-12)


def test_zero_and_missing_directions_map_to_zero():
    assert np.all(np.asarray(svd()(jnp.zeros((2, 3, 5)))) == 0)
    u = np.linalg.qr(RNG.normal(size=(6, 2)))[0]
    v = np.linalg.qr(RNG.normal(size=(9, 2)))[0]
    got = svd()(jnp.asarray(u @ np.diag([3.0, 0.1]) @ v.T, jnp.float32))
    np.testing.assert_allclose(got, u @ v.T, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kernel", [svd, eigh])
def test_what_is_not_finite_returns_and_stays_in_its_matrix(kernel, bad):
    x = np.zeros((2, 4, 4), np.float32)  # LAPACK alone would never come back from this
    x[0, 0, 0], x[1] = bad, np.eye(4)
    got = np.asarray(kernel()(jnp.asarray(x)))
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(got[1], np.eye(4), atol=1e-6)


@pytest.mark.parametrize("power", [-110, 110])
@pytest.mark.parametrize("kernel", [svd, eigh])
def test_the_same_bits_at_any_power_of_two(kernel, power):
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    scaled = np.float32(2.0**power) * x
    of = lambda x: kernel()(jnp.asarray(x))
    np.testing.assert_array_equal(of(scaled), of(x))


def test_polar_decomposition():
    x = RNG.normal(size=(4, 7))
    with jax.enable_x64(True):
        o = np.asarray(svd()(jnp.asarray(x)))
    stretch = x @ o.T  # X = S O with S symmetric and positive
    np.testing.assert_allclose(stretch, stretch.T, atol=1e-12)
    assert np.linalg.eigvalsh(stretch).min() > 0
    np.testing.assert_allclose(o @ o.T, np.eye(4), atol=1e-12)


def test_keeps_dtype_and_refuses_cut_matrices():
    assert svd()(jnp.eye(3, dtype=jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(
        ValueError, match=r"svd: the long axis is cut over 'tp'\. Expect"
    ):
        svd()(jnp.eye(3), inner=Inner("tp"))  # type: ignore[call-arg]


def test_small_side_first_hands_wide_matrices_to_the_kernel():
    seen = []

    def kernel(x):
        seen.append(x.shape)
        return 2 * x

    tall, wide = jnp.ones((2, 5, 3)), jnp.ones((3, 5))
    np.testing.assert_array_equal(small_side_first(kernel)(tall), 2 * tall)
    np.testing.assert_array_equal(small_side_first(kernel)(wide), 2 * wide)
    small_side_first(kernel)(jnp.ones((4, 4)))
    assert seen == [(2, 3, 5), (3, 5), (4, 4)]
