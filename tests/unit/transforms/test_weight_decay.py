# SPDX-License-Identifier: Apache-2.0
"""The six decays against the lines of the specification."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import (
    cautious,
    decay_after,
    decoupled,
    independent,
    l2,
    palm,
    scale_by_learning_rate,
)

RNG = np.random.default_rng(0)
P = np.append(RNG.normal(size=7), [0.0, 1.0])
U = np.append(RNG.normal(size=7), [1.0, 0.0])
LR, WD = 0.3, 0.2
ENDS = {independent, palm, decay_after}


def step(link, lr=LR):
    """One step p -> p + update, through the rate where the link does not own it."""
    chain = link if lr is None else optax.chain(link, scale_by_learning_rate(lr))
    params = {"w": jnp.asarray(P, jnp.float32)}
    u, _ = chain.update({"w": jnp.asarray(U, jnp.float32)}, chain.init(params), params)
    return np.asarray(params["w"] + u["w"], np.float64)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (lambda: step(decoupled(WD)), P * (1 - LR * WD) - LR * U),
        (lambda: step(l2(WD)), P - LR * (U + WD * P)),
        (lambda: step(cautious(WD)), P - LR * WD * P * (P * U >= 0) - LR * U),
        (lambda: step(independent(WD, learning_rate=LR), None), P * (1 - WD) - LR * U),
        (lambda: step(palm(WD, learning_rate=LR), None), P * (1 - WD * LR**2) - LR * U),
        (
            lambda: step(decay_after(WD, learning_rate=LR), None),
            (P - LR * U) * (1 - LR * WD),
        ),
    ],
)
def test_against_the_specification(got, want):
    np.testing.assert_allclose(got(), want, rtol=1e-6, atol=1e-7)


def test_cautious_drops_the_decay_somewhere_and_keeps_zero_products():
    assert (P * U < 0).any()
    decayed = step(decoupled(WD)) != step(cautious(WD))
    np.testing.assert_array_equal(decayed, P * U < 0)


@pytest.mark.parametrize("link", [independent, palm, decay_after])
def test_links_that_own_the_rate_take_schedules(link):
    tx = link(0.0, learning_rate=lambda count: 1.0 + count)
    params = {"w": jnp.ones(1)}
    state = tx.init(params)
    first, state = tx.update(params, state, params)
    second, _ = tx.update(params, state, params)
    assert (float(first["w"][0]), float(second["w"][0])) == (-1.0, -2.0)


@pytest.mark.parametrize("link", [decoupled, l2, cautious, independent, palm])
def test_zero_decay_traced_or_not_is_no_decay(link):
    lr = None if link in ENDS else LR
    owned = {"learning_rate": LR} if link in ENDS else {}
    for zero in (0, 0.0, jnp.zeros(())):
        np.testing.assert_allclose(step(link(zero, **owned), lr), P - LR * U, rtol=1e-6)


@pytest.mark.parametrize("link", [decoupled, l2, cautious, independent, palm])
def test_missing_params_and_bad_numbers(link):
    tx = link()
    state = tx.init({"w": jnp.ones(1)})
    with pytest.raises(
        ValueError, match=r"update: missing 'params'\. Expected .*\. Call"
    ):
        tx.update({"w": jnp.ones(1)}, state)
    with pytest.raises(ValueError, match=r"weight_decay=-1 is out of range\. Expected"):
        link(-1)
