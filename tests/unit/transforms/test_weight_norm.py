# SPDX-License-Identifier: Apache-2.0
"""Row directions and lengths against the reparametrized problem itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import weight_norm

RNG = np.random.default_rng(0)
W = RNG.normal(
    size=(5, 3)
)  # as Flax stores it: 5 inputs, 3 outputs, so rows are axis 1
TARGET = RNG.normal(size=(5, 3))
FIX = lambda x: {"dense": {"kernel": jnp.asarray(x)}}
LOSS = lambda w: jnp.sum((w - TARGET) ** 2)
RATES = (0.02, 0.05)


def length(x):
    return np.sqrt(np.sum(np.asarray(x) ** 2, axis=0))


def test_is_gradient_descent_on_lengths_and_vectors():
    """Against descent on g and v themselves, w = g v / |v|, by automatic gradients."""
    with jax.enable_x64(True):
        unit = lambda v: v / jnp.sqrt(jnp.sum(v * v, axis=0))
        both = jax.grad(lambda g, v: LOSS(g * unit(v)), argnums=(0, 1))
        g, v = jnp.asarray(length(W)), jnp.asarray(W)
        tx = weight_norm(optax.sgd(RATES[0]), optax.sgd(RATES[1]))
        params, update = FIX(W), jax.jit(tx.update)
        state = tx.init(params)
        for _ in range(4):
            grads = jax.tree.map(jax.grad(LOSS), params)
            u, state = update(grads, state, params)
            params = optax.apply_updates(params, u)
            by_g, by_v = both(g, v)
            g, v = g - RATES[1] * by_g, v - RATES[0] * by_v
            want = np.asarray(g * unit(v))
            np.testing.assert_allclose(params["dense"]["kernel"], want, rtol=1e-10)
        norm = optax.tree.get(state, "norm")["dense/kernel"]
    np.testing.assert_allclose(norm[:, 0], length(v), rtol=1e-10)
    assert np.all(length(v) > length(W))  # steps along tangents lengthen v


def test_directions_alone_keep_the_lengths():
    tx = weight_norm(optax.sgd(0.3), optax.set_to_zero())
    params = FIX(np.float32(W))
    u, _ = tx.update(FIX(np.float32(TARGET)), tx.init(params), params)
    after = params["dense"]["kernel"] + u["dense"]["kernel"]
    np.testing.assert_allclose(length(after), length(W), rtol=1e-6)
    assert np.max(np.abs(u["dense"]["kernel"])) > 0.1


def test_rows_without_a_step_stay_bit_for_bit():
    grads = np.float32(TARGET)
    grads[:, 1] = 0
    tx, params = weight_norm(), FIX(np.float32(W))
    u, _ = tx.update(FIX(grads), tx.init(params), params)
    moved = np.any(np.asarray(u["dense"]["kernel"]) != 0, axis=0)
    assert moved.tolist() == [True, False, True]


def test_a_zero_row_grows():
    w = np.float32(W)
    w[:, 0] = 0
    tx = weight_norm(optax.sgd(0.1), optax.sgd(0.1))
    params, update = FIX(w), jax.jit(tx.update)
    state = tx.init(params)
    for _ in range(5):
        grads = jax.tree.map(jax.grad(LOSS), params)
        u, state = update(grads, state, params)
        params = optax.apply_updates(params, u)
    row = params["dense"]["kernel"][:, 0]
    assert np.all(np.isfinite(row))
    assert length(row) > 0.1


def test_other_leaves_go_through_the_direction_alone():
    params = {"dense": {"bias": jnp.ones(3), "kernel": jnp.asarray(W, jnp.float32)}}
    tx = weight_norm(optax.sgd(0.5), optax.sgd(9.0))
    u, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(u["dense"]["bias"], -0.5 * np.ones(3))


def test_missing_params():
    tx, params = weight_norm(), FIX(np.float32(W))
    with pytest.raises(
        ValueError, match=r"weight_norm.update: missing 'params'\. Expec"
    ):
        tx.update(params, tx.init(params))
