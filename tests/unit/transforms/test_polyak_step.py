# SPDX-License-Identifier: Apache-2.0
"""Polyak's step against its closed form, its edges, and the model it solves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import divide_by_sum_of_squares, polyak_step

RNG = np.random.default_rng(0)
G = {"a": RNG.normal(size=3), "b": RNG.normal(size=(2, 2))}
SQUARE = sum(np.sum(g * g) for g in G.values())


def step(value, grads=G, *, inner=None, dtype="float64", **arguments):
    """(updates, lambda) of one step."""
    with jax.enable_x64(dtype == "float64"):
        tx = polyak_step(inner, **arguments)
        grads = jax.tree.map(lambda g: jnp.asarray(g, dtype), grads)
        out, state = jax.jit(tx.update)(grads, tx.init(grads), value=value)
        return jax.tree.map(np.asarray, out), float(state.step_size)


@pytest.mark.parametrize("v", [1e-3, 0.5, 0.999, 1.0])
def test_the_model_reaches_the_least_loss(v):
    f_star = 0.25
    gap = v * SQUARE / 2
    out, size = step(f_star + gap, f_star=f_star)
    # Along -lambda G the model loses lambda <G, S> - lambda^2 <G, S> / 2.
    np.testing.assert_allclose(size * SQUARE - size**2 * SQUARE / 2, gap, rtol=1e-7)
    assert 0 < size <= 1
    np.testing.assert_allclose(out["a"], size * G["a"], rtol=1e-12)


def test_a_loss_beyond_the_model_takes_the_whole_step():
    assert step(SQUARE)[1] == 1.0


@pytest.mark.parametrize("value", [0.25, 0.1, -3.0])
def test_at_and_below_the_least_loss_nothing_moves(value):
    out, size = step(value, f_star=0.25)
    assert size == 0.0
    assert not np.any(out["a"])


def test_a_small_step_keeps_its_digits():
    # 1 - sqrt(1 - v) would lose all of them: lambda is v / 2 to first order.
    _, size = step(SQUARE * 1e-9 / 2, dtype="float32")
    np.testing.assert_allclose(size, 0.5e-9, rtol=1e-5)


def test_no_gradient_no_step():
    zero = jax.tree.map(np.zeros_like, G)
    out, size = step(1.0, zero)
    assert size == 1.0
    assert not np.any(out["a"])


def test_nan_is_shown_everywhere():
    out, size = step(1.0, {**G, "a": np.full(3, np.nan)})
    assert np.isnan(size)
    assert np.all(np.isnan(out["b"]))


@pytest.mark.parametrize(("scale", "wanted"), [(1e-25, 1.0), (1e25, 0.0)])
def test_squares_beyond_the_range_of_float32(scale, wanted):
    out, size = step(1.0, jax.tree.map(lambda g: g * scale, G), dtype="float32")
    assert size == wanted
    np.testing.assert_allclose(out["a"] / scale, wanted * G["a"], rtol=1e-6)


def test_rescaled_coordinates_take_rescaled_steps():
    # Squares without their root: S is covariant and <G, S> invariant.
    units = {"a": np.asarray([1e-3, 1.0, 50.0]), "b": np.asarray([[2.0, 7], [0.1, 1]])}
    moved = {k: G[k] * units[k] for k in G}
    inner = divide_by_sum_of_squares()
    (ours, size), (theirs, other) = (
        step(1.0, inner=inner),
        step(1.0, moved, inner=inner),
    )
    np.testing.assert_allclose(size, other, rtol=1e-12)
    for name in G:
        np.testing.assert_allclose(ours[name], units[name] * theirs[name], rtol=1e-12)


def test_the_inner_link_sees_what_update_was_told():
    seen = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda u, s, params=None, *, factor, **extra: (optax.tree.scale(factor, u), s),
    )
    tx, g = polyak_step(seen), {"w": jnp.asarray([2.0])}
    out, _ = tx.update(g, tx.init(g), value=100.0, factor=3.0)
    np.testing.assert_allclose(out["w"], [6.0])
