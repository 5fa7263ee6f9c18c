# SPDX-License-Identifier: Apache-2.0
"""Scales against float64 NumPy, and the exactness of the default one."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix.inner import local
from orthoptax.matrix.norms import frobenius, frobenius_add, frobenius_max, near_one

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 9))


def norm(x):
    return np.sqrt(np.sum(np.abs(x) ** 2, axis=(-2, -1), keepdims=True))


@pytest.mark.parametrize(
    ("scale", "divisor"),
    [
        (frobenius(), lambda n: n),
        (frobenius(factor=1.01), lambda n: 1.01 * n),
        (frobenius_add(0.5, factor=1.02), lambda n: 1.02 * n + 0.5),
        (frobenius_max(6.0), lambda n: np.maximum(n, 6.0)),
    ],
)
def test_against_numpy(scale, divisor):
    got = scale(jnp.asarray(X, jnp.float32), local).x
    np.testing.assert_allclose(got, X / divisor(norm(X)), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e37])
def test_default_scale_over_the_range_of_float32(size):
    x = X / np.abs(X).max() * size
    got = np.asarray(frobenius()(jnp.asarray(x, jnp.float32), local).x, np.float64)
    np.testing.assert_allclose(got, X / norm(X), rtol=2e-6)


def test_default_scale_gives_the_same_bits_for_powers_of_two():
    x = jnp.asarray(X, jnp.float32)
    want = frobenius()(x, local).x
    for exponent in (-90, -1, 1, 7, 90):
        np.testing.assert_array_equal(frobenius()(x * 2.0**exponent, local).x, want)


def test_near_one_is_exact_and_brings_the_largest_entry_to_one_or_above():
    x = jnp.asarray(X * 1e-12, jnp.float32)
    y = np.asarray(near_one(x, local), np.float64)
    ratio = y / np.asarray(x, np.float64)
    assert np.all(np.exp2(np.round(np.log2(ratio))) == ratio)
    assert np.all(np.ptp(ratio, axis=(1, 2)) == 0)
    top = np.abs(y).max(axis=(1, 2))
    assert np.all(top >= 1)
    assert np.all(top < 2)


@pytest.mark.parametrize("scale", [frobenius(), frobenius_add(), frobenius_max()])
def test_zero_stays_zero_and_nan_stays_in_its_matrix(scale):
    x = jnp.asarray(X, jnp.float32).at[0].set(0.0).at[1, 0, 0].set(jnp.nan)
    y = np.asarray(scale(x, local).x)
    assert np.all(y[0] == 0)
    assert np.isnan(y[1]).any()
    assert np.isfinite(y[2]).all()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: frobenius_add(-1.0), "eps=-1.0"),
        (lambda: frobenius_add(float("nan")), "eps=nan"),
        (lambda: frobenius_add(factor=-2.0), "factor=-2.0"),
        (lambda: frobenius_max(-1.0), "eps=-1.0"),
        (lambda: frobenius(factor=-1.0), "factor=-1.0"),
    ],
)
def test_bad_numbers(make, name):
    with pytest.raises(ValueError, match=rf"{name} is out of range\. Expected .*\. "):
        make()
