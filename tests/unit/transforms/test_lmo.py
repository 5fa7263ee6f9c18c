# SPDX-License-Identifier: Apache-2.0
"""The steps of norm balls as links; the balls themselves are tested beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.matrix import frobenius_max, row_ball, sign_ball, spectral_ball, svd
from orthoptax.transforms import (
    decoupled,
    lmo,
    scale_by_learning_rate,
    sign_or_rms,
)

RNG = np.random.default_rng(0)
G = RNG.normal(size=(2, 3, 5))


def apply(tx, x):
    tree = {"w": x}
    return tx.update(tree, tx.init(tree), tree)[0]["w"]


def test_radius_times_the_direction():
    x = jnp.asarray(G, jnp.float32)
    np.testing.assert_array_equal(
        apply(lmo(row_ball(), radius=3.0), x), 3 * row_ball()(x)
    )


def test_the_default_is_the_spectral_ball():
    x = jnp.asarray(G, jnp.float32)
    np.testing.assert_array_equal(apply(lmo(), x), apply(lmo(spectral_ball()), x))


def test_dtypes_stay():
    assert apply(lmo(radius=0.5), jnp.asarray(G, jnp.bfloat16)).dtype == jnp.bfloat16


def walk(tx, w, grads):
    """The iterates of an optimizer."""
    state, path = tx.init({"w": w}), []
    update = jax.jit(tx.update)
    for g in grads:
        u, state = update({"w": g}, state, {"w": w})
        w = w + u["w"]
        path.append(np.asarray(w))
    return np.stack(path)


def test_decay_is_a_constraint():
    """Both forms take one path, and it stays in the ball of radius r."""
    r, rate = 3.0, 0.2
    with jax.enable_x64(True):
        w, grads = jnp.zeros((3, 5)), jnp.asarray(RNG.normal(size=(30, 3, 5)) + 0.5)
        end = scale_by_learning_rate
        ball = spectral_ball(svd())
        paths = [
            walk(optax.chain(lmo(ball, radius=r), decoupled(1.0), end(rate)), w, grads),
            walk(optax.chain(lmo(ball), decoupled(1 / r), end(rate * r)), w, grads),
        ]
    np.testing.assert_allclose(paths[0], paths[1], rtol=1e-10, atol=1e-13)
    norms = np.linalg.svd(paths[0], compute_uv=False).max(axis=-1)
    assert norms.max() <= r * (1 + 1e-12)
    assert norms.max() > 0.7 * r  # the bound is felt


@pytest.mark.parametrize("shape", [(), (7,)])
def test_vectors_get_unit_root_mean_square(shape):
    g = RNG.normal(size=shape)
    want = 3 * g / np.sqrt(np.mean(g**2))
    for scale in (1e-30, 1.0, 1e30):
        u = apply(sign_or_rms(3.0), jnp.asarray(scale * g, jnp.float32))
        np.testing.assert_allclose(u, want, rtol=1e-6)
    assert not np.any(apply(sign_or_rms(), jnp.zeros(shape)))


def test_larger_leaves_get_signs():
    x = G.copy()
    x[0, 0, 0] = 0
    u = apply(sign_or_rms(0.5), jnp.asarray(x, jnp.bfloat16))
    assert u.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(u, np.float32), 0.5 * np.sign(x))


def test_a_scale_of_the_callers():
    u = apply(sign_or_rms(scale=frobenius_max(10.0)), jnp.asarray([3.0, 4.0]))
    np.testing.assert_allclose(u, np.sqrt(2) * np.asarray([0.3, 0.4]), rtol=1e-6)


def test_bad_input():
    with pytest.raises(
        TypeError, match=r"lmo: norm='l2' is not .*\. Expected a .*\. P"
    ):
        lmo("l2")
    with pytest.raises(ValueError, match=r"lmo: radius=-1 is out .*\. Expected .*\. C"):
        lmo(sign_ball(), radius=-1)
    with pytest.raises(
        ValueError, match=r"lmo: leaf 'w' of shape \(5,\) .*on_matrices"
    ):
        lmo().init({"w": jnp.ones(5)})
    with pytest.raises(
        ValueError, match=r"lmo: leaf 'w' of shape \(5,\) .*on_matrices"
    ):
        lmo().update({"w": jnp.ones(5)}, optax.EmptyState())
    with pytest.raises(
        TypeError, match=r"sign_or_rms: scale=2 is not .*\. Expected a "
    ):
        sign_or_rms(scale=2)
