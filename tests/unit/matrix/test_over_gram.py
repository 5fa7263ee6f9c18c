# SPDX-License-Identifier: Apache-2.0
"""Division by a damped Gram matrix against NumPy's inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import over_gram

RNG = np.random.default_rng(0)
G, X = RNG.normal(size=(3, 5, 4)), RNG.normal(size=(3, 6, 4))


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_against_the_inverse(damping):
    want = G @ np.linalg.inv(np.swapaxes(X, 1, 2) @ X + damping * np.eye(4))
    with jax.enable_x64(True):
        out = jax.jit(over_gram)(jnp.asarray(G), jnp.asarray(X), damping)
    np.testing.assert_allclose(out, want, rtol=1e-11)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_any_scale(scale):
    # The square of neither is damped: the answer goes with its inverse.
    g, x = (jnp.asarray(a[0], jnp.float32) for a in (G, X))
    want = G[0] @ np.linalg.inv(X[0].T @ X[0])
    out = np.asarray(over_gram(g, scale * x), np.float64)
    np.testing.assert_allclose(out * scale**2, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("x", [np.zeros((6, 4)), np.ones((6, 4))])
def test_a_partner_without_full_rank_has_an_answer(x):
    out = over_gram(jnp.asarray(G[0], jnp.float32), jnp.asarray(x, jnp.float32))
    assert np.all(np.isfinite(out))
    assert not np.any(over_gram(jnp.zeros((5, 4)), jnp.asarray(x, jnp.float32)))


def test_a_zero_partner_leaves_the_damping():
    out = over_gram(jnp.asarray(G[0], jnp.float32), jnp.zeros((6, 4)), 0.5)
    np.testing.assert_allclose(out, 2 * G[0], rtol=1e-5)
