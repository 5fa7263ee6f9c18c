# SPDX-License-Identifier: Apache-2.0
"""What a compressor does not take stays."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax._types import Compressed, Compressor
from orthoptax.layout import on_matrices
from orthoptax.transforms import error_feedback, momentum, whole
from tests import zoo


def largest_entry():
    """Takes the largest entry of each leaf; sends its sign on."""

    def leaf(b):
        hit = jnp.abs(b) == jnp.max(jnp.abs(b))
        return jnp.sign(b) * hit, b * hit

    def update(updates, state, params=None, **extra):
        pairs = {k: leaf(b) for k, b in updates.items()}
        pick = lambda i: {k: v[i] for k, v in pairs.items()}
        return Compressed(pick(0), pick(1)), state

    return Compressor(lambda params: optax.EmptyState(), update)


def replay(gradients, b1):
    """The same in float64."""
    m, out = np.zeros_like(gradients[0]), []
    for g in gradients:
        b = m + g
        hit = np.abs(b) == np.abs(b).max()
        out.append(np.sign(b) * hit)
        m = b - (1 - b1) * b * hit
    return out, m


@pytest.mark.parametrize("lift", [lambda tx: tx, on_matrices], ids=["here", "matrices"])
def test_every_step_of_a_compressor(rng, lift):
    gradients = rng.normal(size=(6, 3, 4))
    expected, left = replay(gradients, 0.8)
    tx = error_feedback(0.8, lift(largest_entry()))
    state = tx.init({"dense/kernel": jnp.zeros((3, 4))})
    for t, (g, want) in enumerate(zip(gradients, expected, strict=True), 1):
        u, state = tx.update({"dense/kernel": jnp.asarray(g, jnp.float32)}, state)
        np.testing.assert_array_equal(u["dense/kernel"], want)
        assert state.count == t
    np.testing.assert_allclose(
        state.momentum["dense/kernel"], left, rtol=1e-5, atol=1e-6
    )


def test_whole_is_the_sum_form_of_momentum(x64):
    ours = error_feedback(0.9, whole())
    theirs = momentum(0.9, ema=False, nesterov=False)
    params = zoo.tree(0, dtype=jnp.float64)
    states = ours.init(params), theirs.init(params)
    for seed in range(1, 5):
        g = zoo.tree(seed, dtype=jnp.float64)
        u, s = ours.update(g, states[0])
        v, t = theirs.update(g, states[1])
        zoo.assert_close(u, v, 1e-14)
        states = s, t


def test_fused_blocks_and_other_leaves_go_back_to_their_places(rng):
    params = {"dense": {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}}
    tx = error_feedback(0.5, on_matrices(whole()))
    g = {"dense": {"kernel": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32),
                   "bias": jnp.ones(6)}}  # fmt: skip
    u, state = tx.update(g, tx.init(params))
    np.testing.assert_array_equal(u["dense"]["kernel"], g["dense"]["kernel"])
    np.testing.assert_allclose(state.momentum["dense"]["bias"], np.full(6, 0.5))


def test_state_dtype(x64):
    tx = error_feedback(0.5, mu_dtype=jnp.bfloat16)
    u, state = tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
    assert (u["w"].dtype, state.momentum["w"].dtype) == (jnp.float64, jnp.bfloat16)


@pytest.mark.parametrize("b1", [-0.1, 1.0, float("nan")])
def test_weight_of_the_past_out_of_range(b1):
    with pytest.raises(ValueError, match=r"error_feedback: b1=.*Expected.*Change b1"):
        error_feedback(b1)
