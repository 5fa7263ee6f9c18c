# SPDX-License-Identifier: Apache-2.0
"""Gradient regularization against NumPy, and what it is on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import (
    backward_difference,
    exact_product,
    forward_difference,
    regularize_gradient,
)

RNG = np.random.default_rng(0)
M = RNG.normal(size=(5, 5))
W = RNG.normal(size=5)


def quintic(w):
    """A gradient field that is no gradient of a quadratic."""
    return M @ w + w**3


def step(tx, w=W, grad_fn=quintic):
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(w)}
        fn = lambda p: {"w": grad_fn(p["w"])}
        update = jax.jit(lambda g, p: tx.update(g, tx.init(p), p, grad_fn=fn)[0])
        return np.asarray(update(fn(params), params)["w"])


@pytest.mark.parametrize("normalize", [False, True])
def test_against_numpy(normalize):
    g, gamma, eps = quintic(W), 0.3, 0.2
    length = eps / np.linalg.norm(g) if normalize else eps
    wanted = {
        forward_difference: (quintic(W + length * g) - g) / length,
        backward_difference: (g - quintic(W - length * g)) / length,
        exact_product: M @ g + 3 * W**2 * g,
    }
    for difference, product in wanted.items():
        tx = regularize_gradient(
            gamma, eps=eps, difference=difference, normalize=normalize
        )
        np.testing.assert_allclose(step(tx), g + gamma * product, rtol=1e-12)


def test_with_equal_numbers_it_is_the_gradient_nearby():
    near = quintic(W + 0.1 * quintic(W))
    np.testing.assert_allclose(step(regularize_gradient(0.1, eps=0.1)), near)


@pytest.mark.parametrize("normalize", [False, True])
def test_no_gradient_stays_none(normalize):
    tx = regularize_gradient(normalize=normalize)
    assert not np.any(step(tx, np.zeros(5)))


def test_what_is_no_function_is_refused():
    tx, w = regularize_gradient(), {"w": jnp.ones(2)}
    with pytest.raises(
        ValueError, match=r"missing 'grad_fn'\. Expected the gradient as"
    ):
        tx.update(w, tx.init(w), w)
    with pytest.raises(TypeError, match=r"grad_fn=3 is not a function"):
        tx.update(w, tx.init(w), w, grad_fn=3)
    with pytest.raises(TypeError, match="difference='forward' is not a function"):
        regularize_gradient(difference="forward")
