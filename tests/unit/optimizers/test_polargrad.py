# SPDX-License-Identifier: Apache-2.0
"""PolarGrad and MOP against their recursions, and what tells them from Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import mop, polargrad
from orthoptax.matrix import svd

RNG = np.random.default_rng(0)
GRADS = RNG.normal(size=(3, 4, 3))
W = RNG.normal(size=(4, 3))


def steps(tx, grads, dtype=jnp.float64):
    params = {"dense/kernel": jnp.asarray(W, dtype)}
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in grads:
        u, state = update({"dense/kernel": jnp.asarray(g, dtype)}, state, params)
        out.append(np.asarray(u["dense/kernel"]))
    return out


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("make", [mop, polargrad])
def test_against_numpy(make, nesterov, x64):
    tx = make(0.1, b1=0.8, nesterov=nesterov, weight_decay=0.5)
    m = 0.0
    for g, found in zip(GRADS, steps(tx, GRADS), strict=True):
        m = 0.8 * m + 0.2 * g
        u, s, vh = np.linalg.svd(
            0.8 * m + 0.2 * g if nesterov else m, full_matrices=False
        )
        want = -0.1 * (s.sum() * u @ vh + 0.5 * W)
        np.testing.assert_allclose(
            found, want, rtol=1e-4 if make is polargrad else 1e-9
        )


def test_the_norm_of_mops_update_is_that_of_the_singular_values(x64):
    (found,) = steps(mop(1.0, b1=0.0), GRADS[:1])
    nuclear = np.linalg.svd(GRADS[0], compute_uv=False).sum()
    assert np.linalg.norm(found, 2) == pytest.approx(nuclear, rel=1e-12)
    assert np.linalg.norm(found) == pytest.approx(3**0.5 * nuclear, rel=1e-12)
    assert np.sum(found * GRADS[0]) == pytest.approx(-(nuclear**2), rel=1e-12)


def test_steps_shrink_with_the_gradient():
    """Of degree one, the laws' exemption: the learning rate is gradient descent's."""
    full = steps(polargrad(0.1), GRADS, jnp.float32)
    half = steps(polargrad(0.1), 0.5 * GRADS, jnp.float32)
    np.testing.assert_array_equal(np.stack(half), 0.5 * np.stack(full))


def test_a_quadratic_is_solved_to_the_end_at_a_constant_rate(x64):
    """Where Muon would circle at a distance of its step."""
    tx, target = polargrad(0.1, b1=0.0, polar=svd()), jnp.asarray(W)
    params = {"dense/kernel": jnp.zeros((4, 3))}
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(150):
        error = {"dense/kernel": params["dense/kernel"] - target}
        u, state = update(error, state, params)
        params = {k: p + u[k] for k, p in params.items()}
    assert np.abs(params["dense/kernel"] - target).max() < 1e-3 * np.abs(W).max()
