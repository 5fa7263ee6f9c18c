# SPDX-License-Identifier: Apache-2.0
"""The length of a secant step, and where it comes from when the secant is no number."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import secant_step


def take(tx, points, gradients, diagonals, **extra):
    """Updates at points of our choice, and the last state."""
    state, seen = tx.init(points[0]), []
    for w, g, d in zip(points, gradients, diagonals, strict=True):
        u, state = tx.update(g, state, w, hessian_diag=d, **extra)
        seen.append(np.asarray(u))
    return seen, state


def arrays(*rows):
    return [jnp.asarray(row) for row in rows]


@pytest.mark.parametrize("full_batch", [True, False])
def test_the_secant_of_a_quadratic(x64, full_batch):
    h = np.asarray([4.0, 1.0, 0.25])
    loss = lambda w: jnp.sum(jnp.asarray(h) * w**2) / 2
    w, lr, floor, b2 = np.asarray([1.0, 2.0, 3.0]), 0.1, 0.5, 0.9
    tx = secant_step(lr, b2=b2, floor=floor, full_batch=full_batch)
    state, d, eta, theta, before = tx.init(jnp.asarray(w)), h, lr, np.inf, w
    for t in range(5):
        told = h * (1 + t)
        extra = {"hessian_diag": jnp.asarray(told), "obj_fn": loss}
        u, state = tx.update(jnp.asarray(h * w), state, jnp.asarray(w), **extra)
        d = d if t == 0 else b2 * d + (1 - b2) * told
        metric = np.maximum(np.abs(d), floor)
        if t > 0:
            step = w - before
            e = np.sqrt(np.sum(metric * step**2))
            e /= 2 * np.sqrt(np.sum((h * step) ** 2 / metric))
            new = min(np.sqrt(1 + theta) * eta, e)
            eta, theta = new, new / eta
        np.testing.assert_allclose(state.step_size, eta, rtol=1e-12)
        np.testing.assert_allclose(u, -eta * h * w / metric, rtol=1e-12)
        before, w = w, w + np.asarray(u)


def test_nothing_moves_before_the_first_estimate(x64):
    tx = secant_step(0.5, full_batch=True)
    w, d = jnp.asarray([1.0]), jnp.asarray([2.0])
    u, state = tx.update(w, tx.init(w), w, hessian_diag=d, hessian_fresh=False)
    np.testing.assert_array_equal(u, [0.0])
    u, state = tx.update(w, state, w, hessian_diag=d)
    np.testing.assert_allclose(u, [-0.25])
    assert int(state.count) == 1


def test_a_step_that_moved_nothing_keeps_the_length(x64):
    # The gradient of another batch: the secant would be 0, and 0 for ever after.
    w, g, d = (
        arrays([1.0], [1.0], [0.5]),
        arrays([1.0], [2.0], [1.5]),
        [jnp.ones(1)] * 3,
    )
    seen, state = take(secant_step(0.5, full_batch=True), w, g, d)
    np.testing.assert_allclose(seen[1], [-0.5 * 2.0])
    np.testing.assert_allclose(seen[2], [-0.5 * 1.5])  # 0.5 / (2 * 0.5)
    assert np.isfinite(state.ratio)


@pytest.mark.parametrize("last", [[2.0], [np.nan]])
def test_a_secant_that_is_no_number_is_passed_over(x64, last):
    # The gradient has not changed, or holds NaN: the other term of the minimum counts.
    w, g = arrays([2.0], [1.0], [0.0]), arrays([2.0], [1.0], last)
    g[2] = jnp.asarray([1.0]) if np.isfinite(last[0]) else g[2]
    _, state = take(
        secant_step(0.25, full_batch=True), w, g, arrays([1.0], [1.0], [1.0])
    )
    # The second: min(inf, 1/2), ratio 2; then sqrt(1 + 2) / 2.
    np.testing.assert_allclose(state.step_size, np.sqrt(3) / 2)


def test_large_gradients_do_not_overflow_the_norms():
    w, g = arrays([2.0], [1.0]), arrays([2e25], [1e25])
    _, state = take(secant_step(1e-26, full_batch=True), w, g, arrays([1.0], [1.0]))
    np.testing.assert_allclose(state.step_size, 0.5e-25, rtol=1e-5)
