# SPDX-License-Identifier: Apache-2.0
"""Directions at the norm of their weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import relative_update

W, U = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
NORM = lambda x: np.sqrt(np.sum(x**2, axis=(-2, -1), keepdims=True))


@pytest.mark.parametrize("of_u", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("of_w", [1e-25, 1e25])
def test_norm_of_the_weights(of_u, of_w):
    tx = relative_update()
    params = {"w": jnp.asarray(of_w * W, jnp.float32)}
    u, _ = tx.update({"w": jnp.asarray(of_u * U, jnp.float32)}, tx.init(params), params)
    want = of_w * NORM(W) * U / NORM(U)
    np.testing.assert_allclose(u["w"], want, rtol=1e-5)


def test_zero_stays_zero_and_types_stay():
    tx = relative_update()
    w = {"w": jnp.asarray(W, jnp.float32)}
    zero = {"w": jnp.zeros(W.shape, jnp.bfloat16)}
    u, _ = tx.update(zero, tx.init(w), w)
    assert u["w"].dtype == jnp.bfloat16
    assert not np.any(u["w"])
    u, _ = tx.update(w, tx.init(w), zero)
    assert not np.any(u["w"])


def test_bad_input():
    tx = relative_update()
    with pytest.raises(
        ValueError, match=r"relative_update.update: missing 'params'\. E"
    ):
        tx.update({"w": jnp.ones((2, 2))}, tx.init({}))
    with pytest.raises(
        ValueError, match=r"relative_update: leaf 'b' of shape \(3,\) .*"
    ):
        tx.update({"b": jnp.ones(3)}, tx.init({}), {"b": jnp.ones(3)})
