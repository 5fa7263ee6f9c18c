# SPDX-License-Identifier: Apache-2.0
"""The three divisions by curvature against their formulas, in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.curvature import average_axes
from orthoptax.transforms import (
    divide_by_curvature_abs_floor,
    divide_by_curvature_mean,
    divide_by_curvature_rms,
)

STEPS, SIZE = 6, 5
FRESH = [False, True, False, True, True, False]


def data():
    """(updates, diagonals), a row a step, one entry of no curvature."""
    rng = np.random.default_rng(0)
    g, d = rng.normal(size=(2, STEPS, SIZE))
    d[:, 0] = 0.0
    return g, d


def run(tx, dtype=jnp.float64):
    """Every step's update and the last state."""
    g, d = data()
    state, seen = tx.init(jnp.zeros(SIZE, dtype)), []
    for t, fresh in enumerate(FRESH):
        told = jnp.asarray(d[t]) if fresh else jnp.full(SIZE, jnp.nan)
        extra = {"hessian_diag": told, "hessian_fresh": jnp.asarray(fresh)}
        u, state = tx.update(jnp.asarray(g[t], dtype), state, None, **extra)
        assert u.dtype == dtype
        seen.append(np.asarray(u, np.float64))
    return np.stack(seen), state


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_rms(x64, power, bias_correction):
    b2, eps = 0.7, 0.01
    options = {"power": power, "eps": eps, "bias_correction": bias_correction}
    seen, state = run(divide_by_curvature_rms(b2, **options))
    (g, d), v, k = data(), np.zeros(SIZE), 0
    for t, fresh in enumerate(FRESH):
        if fresh:
            v, k = b2 * v + (1 - b2) * d[t] ** 2, k + 1
        whole = v / (1 - b2**k) if bias_correction and k else v
        want = (k > 0) * g[t] / (np.sqrt(whole) ** power + eps)
        np.testing.assert_allclose(seen[t], want, rtol=1e-12, atol=1e-14)
    assert int(state.count) == k


@pytest.mark.parametrize("abs_first", [True, False])
def test_rms_of_means(x64, abs_first):
    average = average_axes(lambda path, leaf: (0,))
    tx = divide_by_curvature_rms(eps=0.1, average=average, abs_first=abs_first)
    d = jnp.asarray([3.0, -1.0])
    u, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), None, hessian_diag=d)
    np.testing.assert_allclose(u, [1 / (2.1 if abs_first else 1.1)] * 2, rtol=1e-12)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("tau", [1.0, 0.3, None])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_mean(x64, first, tau, bias_correction):
    b2, gamma, eps = 0.7, 0.9, 0.05
    tx = divide_by_curvature_mean(
        b2, gamma=gamma, eps=eps, clip_threshold=tau, refresh_first=first,
        bias_correction=bias_correction,
    )  # fmt: skip
    seen, state = run(tx)
    (g, d), h, k = data(), np.zeros(SIZE), 0
    limit = np.inf if tau is None else tau
    for t, fresh in enumerate(FRESH):
        before = h, k
        if fresh:
            h, k = b2 * h + (1 - b2) * d[t], k + 1
        used, n = (h, k) if first else before
        used = used / (1 - b2**n) if bias_correction and n else used
        u = np.clip(g[t] / np.maximum(gamma * used, eps), -limit, limit)
        want = u * (n > 0) if bias_correction else u
        np.testing.assert_allclose(seen[t], want, rtol=1e-12)
    np.testing.assert_allclose(state.curvature, h, rtol=1e-12)
    np.testing.assert_allclose(state.win_rate, np.mean(np.abs(want) < limit))


def test_mean_with_the_denominator_of_the_authors(x64):
    tx = divide_by_curvature_mean(
        0.0, gamma=0.5, eps=0.25, refresh_first=True, denominator=jnp.add
    )
    d, g = jnp.asarray([4.0, 0.0]), jnp.asarray([1.0, 0.125])
    u, _ = tx.update(g, tx.init(g), None, hessian_diag=d)
    np.testing.assert_allclose(u, [1 / 2.25, 0.5])


def test_abs_floor(x64):
    b2, floor = 0.7, 0.2
    seen, state = run(divide_by_curvature_abs_floor(b2, floor=floor))
    (g, d), h, k = data(), np.zeros(SIZE), 0
    for t, fresh in enumerate(FRESH):
        if fresh:
            h, k = (b2 * h + (1 - b2) * d[t] if k else d[t]), k + 1
        want = (k > 0) * g[t] / np.maximum(np.abs(h), floor)
        np.testing.assert_allclose(seen[t], want, rtol=1e-12)
    np.testing.assert_allclose(state.curvature, h, rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [divide_by_curvature_rms, divide_by_curvature_mean, divide_by_curvature_abs_floor],
)
def test_narrow_updates_keep_wide_statistics(make):
    seen, state = run(make(), jnp.bfloat16)
    assert state.curvature.dtype == jnp.float32
    assert np.all(np.isfinite(seen))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
