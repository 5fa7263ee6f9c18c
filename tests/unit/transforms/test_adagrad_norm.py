# SPDX-License-Identifier: Apache-2.0
"""AdaGO's step size against its recursion, and its bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import adagrad_norm

RNG = np.random.default_rng(0)
SIZES = np.asarray([1.0, 30.0, 0.0, 0.2, 5.0])
GRADS = SIZES[:, None, None, None] * RNG.normal(size=(5, 2, 3, 4))


def factors(tx, grads, dtype=jnp.float32):
    """What each matrix of a stack of ones is multiplied by, step by step."""
    ones = {"w": jnp.ones(grads[0].shape, dtype)}
    state, update, out = tx.init(ones), jax.jit(tx.update), []
    for g in grads:
        u, state = update(ones, state, grad={"w": jnp.asarray(g, dtype)})
        assert np.ptp(np.asarray(u["w"], np.float64), axis=(-2, -1)).max() == 0
        out.append(np.asarray(u["w"])[..., 0, 0])
    return np.stack(out), state


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_against_the_recursion(floor, x64):
    gamma, initial = 9.0, 0.5
    found, state = factors(
        adagrad_norm(gamma, initial=initial, floor=floor), GRADS, jnp.float64
    )
    square, want = np.full(2, initial**2), []
    for g in GRADS:
        c = np.minimum(np.linalg.norm(g, axis=(-2, -1)), gamma)
        square = square + c**2
        want.append(np.maximum(floor, c / np.sqrt(square)))
    np.testing.assert_allclose(found, want, rtol=1e-12)
    np.testing.assert_allclose(
        state.norm["w"][..., 0, 0], np.sqrt(square - initial**2), rtol=1e-12
    )
    assert int(state.count) == len(GRADS)


def test_a_floor_may_be_a_schedule():
    floor = lambda count: 2.0 + count
    found, _ = factors(adagrad_norm(floor=floor), GRADS)
    np.testing.assert_array_equal(found[:, 0], [2.0, 3.0, 4.0, 5.0, 6.0])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_without_absolute_numbers_any_scale_is_the_same(scale):
    tx = adagrad_norm(3e38, initial=0.0)
    found, _ = factors(tx, np.float32(scale) * GRADS.astype(np.float32))
    np.testing.assert_allclose(found, factors(tx, GRADS)[0], rtol=1e-5)


def test_no_gradient_yet_and_no_initial_gives_the_floor():
    found, _ = factors(adagrad_norm(initial=0.0), np.zeros((1, 2, 3, 4)))
    assert not found.any()


def test_without_grad_its_own_input_is_measured():
    tx, u = adagrad_norm(initial=0.0), {"w": jnp.asarray([[3.0, 4.0]])}
    _, state = tx.update(u, tx.init(u))
    assert float(state.norm["w"][0, 0]) == 5.0


def test_bad_input():
    with pytest.raises(ValueError, match=r"floor=-1 is out of range\. Expected .*\. C"):
        adagrad_norm(floor=-1)
    with pytest.raises(ValueError, match=r"'w' .* not a matrix\. Expected .*\. Wrap"):
        adagrad_norm().init({"w": jnp.ones(3)})
    assert optax.tree.get(adagrad_norm().init({"w": jnp.ones((2, 2))}), "count") == 0
