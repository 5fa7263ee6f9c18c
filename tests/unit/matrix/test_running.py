# SPDX-License-Identifier: Apache-2.0
"""Norms and their running means against NumPy, at scales whose squares do not exist."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix.running import divide, norm, power_of_two, running

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("axis", [(-2, -1), -2, (-1,)])
def test_norm(scale, axis):
    want = np.linalg.norm(X.astype(np.float64), axis=axis, keepdims=True)
    got = np.asarray(norm(jnp.asarray(np.float32(scale) * X), axis), np.float64)
    np.testing.assert_allclose(got / scale, want, rtol=1e-6)


def test_norm_of_each_column_has_its_own_unit():
    x = jnp.asarray([[1e30, 1e-30], [0.0, 1e-30]], jnp.float32)
    np.testing.assert_allclose(norm(x, -2)[0], [1e30, 2**0.5 * 1e-30], rtol=1e-6)


def test_norm_of_complex_is_real():
    x = norm(jnp.asarray([[3 + 4j]], jnp.complex64))
    assert x.dtype == jnp.float32
    assert x.tolist() == [[5.0]]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_running(scale):
    past, now = (jnp.asarray(scale * v, jnp.float32) for v in (3.0, 5.0))
    want = np.sqrt(0.8 * 9 + 0.2 * 25)
    np.testing.assert_allclose(running(past, now, 0.8) / scale, want, rtol=1e-6)


def test_powers_of_two():
    x = jnp.asarray([0.0, 1.0, 3.9, -4.0, 3e-30])
    assert power_of_two(x).tolist() == [1.0, 1.0, 2.0, 4.0, 2.0**-99]


def test_division_by_zero_is_zero():
    x, by = jnp.asarray([1.0, 1.0, jnp.nan]), jnp.asarray([0.0, 2.0, 1.0])
    np.testing.assert_array_equal(divide(x, by), [0.0, 0.5, np.nan])
