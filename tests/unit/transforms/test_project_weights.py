# SPDX-License-Identifier: Apache-2.0
"""The last link: where a projected step ends, and what stays constant on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.matrix import radial_brake, stiefel, svd
from orthoptax.transforms import project_weights

RNG = np.random.default_rng(0)
W, U = RNG.normal(size=(2, 3, 4, 5))
NORM = lambda x: np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, axis=(-2, -1)))


def arrive(tx, w, u, steps=1):
    """The weights after equal steps."""
    params, state = {"w": w}, tx.init({"w": w})
    update = jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update({"w": u}, state, params)
        params = optax.apply_updates(params, updates)
    return params["w"], state


def test_each_projection_of_new_old_and_start():
    seen = []

    def projection(new, old, start):
        seen.append((new, old, start))
        return 2 * new - old

    with jax.enable_x64(True):
        w, u = jnp.asarray(W), jnp.asarray(U)
        tx = project_weights(projection)
        state = tx.init({"w": w})
        out, _ = tx.update({"w": u}, state, {"w": w})
    new, old, start = seen[0]
    np.testing.assert_allclose(new, W + U, rtol=1e-14)
    np.testing.assert_array_equal(old, W)
    np.testing.assert_allclose(start[:, 0, 0], NORM(W), rtol=1e-14)
    np.testing.assert_allclose(out["w"], 2 * U, rtol=1e-12)


def test_the_norm_is_the_first_one_for_ever():
    """Also in bfloat16, whose roundings would let the last norm walk away."""
    for dtype, tolerance in (("float32", 1e-6), ("bfloat16", 4e-3)):
        w, u = jnp.asarray(W, dtype), jnp.asarray(0.1 * U, dtype)
        after, state = arrive(project_weights(), w, u, steps=100)
        np.testing.assert_allclose(NORM(after), NORM(w), rtol=tolerance)
        assert state.norm["w"].dtype == jnp.float32
        assert state.norm["w"].shape == (3, 1, 1)


def test_orthonormal_weights_stay_so():
    with jax.enable_x64(True):
        w = jnp.asarray(np.linalg.qr(W.swapaxes(-1, -2))[0].swapaxes(-1, -2))
        after, _ = arrive(
            project_weights(stiefel(svd())), w, jnp.asarray(0.1 * U), steps=5
        )
    s = np.linalg.svd(after, compute_uv=False)
    np.testing.assert_allclose(s, 1, rtol=1e-12)
    assert np.max(np.abs(after - w)) > 0.1


def test_the_brake_holds_growth_only():
    with jax.enable_x64(True):
        w = jnp.asarray(W)
        out, _ = arrive(project_weights(radial_brake()), w, 0.4 * w)
        back, _ = arrive(project_weights(radial_brake()), w, -0.4 * w)
    np.testing.assert_allclose(out, 1.2 * W, rtol=1e-12)
    np.testing.assert_allclose(back, 0.6 * W, rtol=1e-12)


def test_bad_input():
    tx = project_weights()
    w = {"w": jnp.ones((2, 2))}
    with pytest.raises(
        ValueError, match=r"project_weights.update: missing 'params'\. E"
    ):
        tx.update(w, tx.init(w))
    with pytest.raises(
        ValueError, match=r"project_weights: leaf 'b' of shape \(3,\) .*"
    ):
        tx.init({"b": jnp.ones(3)})
    match = r"project_weights: projection=1 is not .*\. Expected .*\. Pass for .*sphere"
    with pytest.raises(TypeError, match=match):
        project_weights(1)
