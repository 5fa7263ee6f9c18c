# SPDX-License-Identifier: Apache-2.0
"""Later links see the gradient that entered."""

import jax.numpy as jnp
import numpy as np
import optax

from orthoptax.layout import on_matrices
from orthoptax.transforms import momentum, with_statistics


def divides_by_norm_of_grad():
    """A link that reads `grad`."""

    def update(updates, state, params=None, *, grad, **extra):
        return {k: u / jnp.linalg.norm(grad[k]) for k, u in updates.items()}, state

    init = lambda params: optax.EmptyState()
    return optax.GradientTransformationExtraArgs(init, update)


def test_the_raw_gradient_reaches_links_in_any_coordinates(rng):
    g = rng.normal(size=(2, 4, 8))  # two gradients of one kernel
    tx = with_statistics(
        momentum(0.5, ema=False, nesterov=False), on_matrices(divides_by_norm_of_grad())
    )
    tree = [{"dense/kernel": jnp.asarray(x, jnp.float32)} for x in g]
    state = tx.init(tree[0])
    _, state = tx.update(tree[0], state)
    found, _ = tx.update(tree[1], state)
    expected = (0.5 * g[0] + g[1]) / np.linalg.norm(g[1])
    np.testing.assert_allclose(found["dense/kernel"], expected, rtol=1e-5)


def test_the_callers_own_is_replaced():
    tx = with_statistics(divides_by_norm_of_grad())
    u = {"w": jnp.asarray([3.0, 4.0])}
    found, _ = tx.update(u, tx.init(u), grad={"w": jnp.asarray([100.0, 0.0])})
    np.testing.assert_allclose(found["w"], [0.6, 0.8], rtol=1e-6)


def test_nested_ones_see_what_entered_them():
    tx = with_statistics(optax.scale(2.0), with_statistics(divides_by_norm_of_grad()))
    u = {"w": jnp.asarray([3.0, 4.0])}
    found, _ = tx.update(u, tx.init(u))
    np.testing.assert_allclose(found["w"], [0.6, 0.8], rtol=1e-6)


def test_of_nothing_is_the_identity():
    tx = with_statistics()
    assert tx.update(jnp.ones(2), tx.init(None))[0].tolist() == [1, 1]
