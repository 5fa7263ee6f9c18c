# SPDX-License-Identifier: Apache-2.0
"""Adam's direction against its lines in float64 NumPy, and far from 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import scale_by_adam

GRADS = np.random.default_rng(0).normal(size=(5, 3, 4))


def run(tx, grads):
    state, out = tx.init({"w": jnp.zeros_like(grads[0])}), []
    update = jax.jit(tx.update)
    for g in grads:
        u, state = update({"w": g}, state)
        out.append(np.asarray(u["w"]))
    return np.stack(out), state


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_against_the_recursion(eps):
    b1, b2, m, v = 0.8, 0.9, 0.0, 0.0
    want = []
    for t, g in enumerate(GRADS, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        want.append(m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps))
    with jax.enable_x64(True):
        got, state = run(scale_by_adam(b1, b2, eps=eps), jnp.asarray(GRADS))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(state.mean["w"], m, rtol=1e-12)
    np.testing.assert_allclose(state.root_mean_square["w"], np.sqrt(v), rtol=1e-12)
    assert int(state.count) == 5


@pytest.mark.parametrize("exponent", [-90, 90])
def test_any_scale(exponent):
    grads = jnp.asarray(GRADS, jnp.float32)
    want, _ = run(scale_by_adam(), grads)
    got, _ = run(scale_by_adam(), grads * 2.0**exponent)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_zero_stays_zero():
    got, _ = run(scale_by_adam(), jnp.zeros((2, 3)))
    assert not np.any(got)


@pytest.mark.parametrize("name", ["b1", "b2", "eps"])
def test_numbers_out_of_range(name):
    with pytest.raises(
        ValueError, match=rf"scale_by_adam: {name}=-1 is .*\. Expected "
    ):
        scale_by_adam(**{name: -1})
