# SPDX-License-Identifier: Apache-2.0
"""NAMO against its recursion, and what its factor measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import namo
from orthoptax.matrix import svd

RNG = np.random.default_rng(0)
GRADS = RNG.normal(size=(4, 3, 4))
W = RNG.normal(size=(3, 4))


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def steps(tx, grads, dtype=jnp.float64):
    params = {"dense/kernel": jnp.asarray(W, dtype)}
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in grads:
        u, state = update({"dense/kernel": jnp.asarray(g, dtype)}, state, params)
        out.append(np.asarray(u["dense/kernel"]))
    return out


@pytest.mark.parametrize("nesterov", [False, True])
def test_against_numpy(nesterov, x64):
    tx = namo(
        0.1, b1=0.8, b2=0.6, eps=0.5, nesterov=nesterov, weight_decay=0.5, polar=svd()
    )
    m, v = np.zeros_like(W), 0.0
    for g, found in zip(GRADS, steps(tx, GRADS), strict=True):
        m = 0.8 * m + 0.2 * g
        v = 0.6 * v + 0.4 * np.sum(g**2)
        u = 0.8 * m + 0.2 * g if nesterov else m
        a = np.linalg.norm(u) / (np.sqrt(v) + 0.5)
        want = -0.1 * (a * 0.2 * np.sqrt(4) * polar(u) + 0.5 * W)
        np.testing.assert_allclose(found, want, rtol=1e-9)


def test_full_steps_where_gradients_agree_and_small_ones_where_they_cancel(x64):
    same, noise = [GRADS[0]] * 300, [(-1) ** t * GRADS[0] for t in range(300)]
    full = 0.1 * 0.2 * np.sqrt(4)
    sizes = [np.linalg.norm(steps(namo(0.1, polar=svd()), g)[-1], 2)
             for g in (same, noise)]  # fmt: skip
    assert sizes[0] == pytest.approx(full, rel=1e-6)
    assert sizes[1] == pytest.approx(full * 0.05 / 1.95, rel=1e-5)  # (1 - b1)/(1 + b1)
