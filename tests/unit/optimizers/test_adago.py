# SPDX-License-Identifier: Apache-2.0
"""AdaGO against its recursion, and the bounds of its step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import adago
from orthoptax.matrix import svd
from orthoptax.transforms import scale_by_shape, spectral_norm

RNG = np.random.default_rng(0)
SIZES = (30.0, 1.0, 1e-4, 0.0, 0.3, 5.0)
GRADS = [s * RNG.normal(size=(3, 4)) for s in SIZES]
W = RNG.normal(size=(3, 4))


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def steps(tx, grads=GRADS, dtype=jnp.float64):
    """Every update of one kernel that stays where it is."""
    params = {"dense/kernel": jnp.asarray(W, dtype)}
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in grads:
        u, state = update({"dense/kernel": jnp.asarray(g, dtype)}, state, params)
        out.append(np.asarray(u["dense/kernel"]))
    return out


@pytest.mark.parametrize("nesterov", [False, True])
def test_against_numpy(nesterov, x64):
    rates = lambda count: 0.1 / (1 + count)
    tx = adago(
        rates, b1=0.8, gamma=2.0, eps=0.01, initial=0.1, nesterov=nesterov,
        weight_decay=0.5, polar=svd(),
    )  # fmt: skip
    m, square = np.zeros_like(W), 0.1**2
    for t, (g, found) in enumerate(zip(GRADS, steps(tx), strict=True)):
        m = 0.8 * m + 0.2 * g
        c = min(np.linalg.norm(g), 2.0)
        square += c**2
        step = max(0.01, rates(t) * c / np.sqrt(square))
        o = polar(0.8 * m + 0.2 * g if nesterov else m)
        want = -step * o - rates(t) * 0.5 * W
        np.testing.assert_allclose(found, want, rtol=1e-9, err_msg=str(t))


@pytest.mark.parametrize("rate", [1e-5, 0.05])
def test_steps_lie_between_eps_and_the_rate(rate, x64):
    eps = 5e-4
    found = [np.linalg.norm(u, 2) for u in steps(adago(rate, polar=svd()))]
    assert min(found) == pytest.approx(eps, rel=1e-9)  # the zero gradient's, at least
    assert max(found) <= max(eps, rate) * (1 + 1e-9)
    if rate > eps:
        assert found[0] == pytest.approx(rate, rel=1e-6)


def test_the_floor_is_no_multiple_of_the_rate():
    """Under a schedule each step is at least eps; at rate 0 there is none."""
    rates = lambda count: jnp.asarray([1e-6, 0.0, 1e-3])[count]
    found = steps(adago(rates, polar=svd()), [GRADS[2]] * 3, jnp.float32)
    norms = [np.linalg.norm(u, 2) for u in found]
    np.testing.assert_allclose(norms, [5e-4, 0.0, 5e-4], rtol=1e-4)


def test_a_shape_scale_goes_in_after():
    plain = steps(adago(0.1), GRADS[:1], jnp.float32)[0]
    tx = adago(0.1, after=scale_by_shape(spectral_norm))  # (in, out) = (3, 4)
    scaled = steps(tx, GRADS[:1], jnp.float32)[0]
    np.testing.assert_allclose(scaled, (4 / 3) ** 0.5 * plain, rtol=1e-5)


def test_the_rest_is_adamw_at_the_same_rate():
    bias = {"dense/bias": jnp.ones(3)}
    ours, theirs = adago(0.1), optax.adamw(0.1, weight_decay=0.0)
    a, _ = ours.update(bias, ours.init(bias), bias)
    b, _ = theirs.update(bias, theirs.init(bias), bias)
    np.testing.assert_allclose(a["dense/bias"], b["dense/bias"], rtol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match=r"adago: eps=-1 is out .*\. Expected .*\. Ch"):
        adago(0.1, eps=-1)
