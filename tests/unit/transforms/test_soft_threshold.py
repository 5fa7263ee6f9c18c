# SPDX-License-Identifier: Apache-2.0
"""ROOT's threshold: a quantile a matrix, and soft-thresholding equal to clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import soft_threshold
from orthoptax.transforms.soft_threshold import part as eager

part = jax.jit(eager)  # one program instead of many
U = np.random.default_rng(0).normal(size=(3, 4, 5))


def quantile(x, q):
    """By the definition: linear at index q (N - 1) of the sorted sizes."""
    s = np.sort(np.abs(x).ravel())
    at = q * (s.size - 1)
    low = int(np.floor(at))
    return s[low] + (at - low) * (s[min(low + 1, s.size - 1)] - s[low])


@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("eps", [0.0, 0.25])
def test_against_the_definition(q, eps):
    with jax.enable_x64(True):
        got = part(jnp.asarray(U), quantile=q, eps=eps)
        tx = soft_threshold(q, eps=eps)
        base = jax.jit(tx.update)({"w": jnp.asarray(U)}, tx.init({}))[0]["w"]
    for i, x in enumerate(U):
        tau = quantile(x, q) + eps
        outlier = np.sign(x) * np.maximum(np.abs(x) - tau, 0)
        np.testing.assert_allclose(got.threshold[i], tau, rtol=1e-12)
        np.testing.assert_allclose(got.outlier[i], outlier, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(got.base[i], x - outlier, rtol=1e-12)
        np.testing.assert_array_equal(base[i], got.base[i])


def test_a_fixed_threshold():
    tx = soft_threshold(threshold=0.5)
    out = jax.jit(tx.update)({"w": jnp.asarray(U, jnp.float32)}, tx.init({}))[0]["w"]
    np.testing.assert_allclose(out, np.clip(U, -0.5, 0.5), rtol=1e-6)


def test_one_outlier_changes_nothing_else():
    x = U[0].copy()
    x[1, 2] = 3.0
    run = lambda x: np.asarray(part(jnp.asarray(x, jnp.float32)).base)
    calm = run(x)
    x[1, 2] = 1e30
    np.testing.assert_array_equal(run(x), calm)


def test_a_matrix_of_few_entries_keeps_their_signs():
    x = np.zeros((5, 5), np.float32)
    x[0, :2] = [3.0, -7.0]
    base = np.asarray(part(jnp.asarray(x)).base)  # the quantile is 0
    np.testing.assert_array_equal(base, 3 * np.sign(x))
    authors = np.asarray(part(jnp.asarray(x), eps=1e-9).base)
    np.testing.assert_array_equal(np.sign(authors), np.sign(x))
    for zero in part(jnp.zeros((5, 5))):
        assert not np.any(zero)


@pytest.mark.parametrize("power", [-90, 90])
def test_any_scale(power):
    x = jnp.asarray(U, jnp.float32)
    scaled = part(x * 2.0**power).base
    np.testing.assert_array_equal(scaled, part(x).base * 2.0**power)


def test_nan_stays_in_its_matrix():
    base = part(jnp.asarray(U).at[1, 0, 0].set(jnp.nan)).base
    assert np.any(np.isnan(base[1]))
    assert np.all(np.isfinite(base[np.asarray([0, 2])]))


def test_the_quantile_may_be_traced():
    run = jax.jit(lambda q: part(jnp.asarray(U), quantile=q).base)
    np.testing.assert_allclose(run(0.9), part(jnp.asarray(U)).base, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("quantile", 1.0), ("quantile", -0.1), ("eps", -1.0), ("threshold", -1.0)],
)
def test_bad_numbers(name, value):
    match = rf"soft_threshold: {name}={value} is out of range\. Expected .*\. Change"
    with pytest.raises(ValueError, match=match):
        soft_threshold(**{name: value})


def test_a_vector_is_refused():
    tx = soft_threshold()
    match = r"soft_threshold: leaf 'b' of shape \(3,\) .*\. Expected .*\. Wrap"
    with pytest.raises(ValueError, match=match):
        tx.update({"b": jnp.ones(3)}, tx.init({}))
