# SPDX-License-Identifier: Apache-2.0
"""Muon against its recursion in float64 NumPy, and what its arguments do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import MatrixView, muon, rules
from orthoptax.layout.links import Here
from orthoptax.matrix import newton_schulz, svd
from orthoptax.transforms import match_rms, original

RNG = np.random.default_rng(0)
SHAPES = {"dense/kernel": (4, 7), "blocks/kernel": (3, 5, 2), "dense/bias": (7,)}
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(4)]


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def test_against_numpy():
    """momentum, look-ahead, exact polar factor, 0.2 sqrt(max), decoupled decay."""
    lr, b1, wd = 0.03, 0.9, 0.4
    with jax.enable_x64(True):
        tx = muon(lr, b1=b1, weight_decay=wd, polar=svd())
        params = jax.tree.map(jnp.asarray, PARAMS)
        state, update = tx.init(params), jax.jit(tx.update)
        for g in GRADS:
            u, state = update(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, u)
    for name in ("dense/kernel", "blocks/kernel"):
        w, m = PARAMS[name].copy(), np.zeros(SHAPES[name])
        for g in GRADS:
            m = b1 * m + (1 - b1) * g[name]
            o = polar(b1 * m + (1 - b1) * g[name])  # of (in, out) as of its transpose
            w = w * (1 - lr * wd) - lr * 0.2 * np.sqrt(max(w.shape[-2:])) * o
        np.testing.assert_allclose(params[name], w, rtol=1e-9, err_msg=name)


def test_the_rest_is_adamw_at_the_same_rate_without_decay():
    rate = lambda count: 0.1 / (1 + count)
    for lr in (0.02, rate):
        ours, theirs = muon(lr, weight_decay=0.7), optax.adamw(lr, weight_decay=0.0)
        params = {k: jnp.asarray(v, jnp.float32) for k, v in PARAMS.items()}
        bias = {"dense/bias": params["dense/bias"]}
        a, b = ours.init(params), theirs.init(bias)
        for g in GRADS:
            g = {k: jnp.asarray(v, jnp.float32) for k, v in g.items()}
            u, a = ours.update(g, a, params)
            v, b = theirs.update({"dense/bias": g["dense/bias"]}, b, bias)
            np.testing.assert_allclose(u["dense/bias"], v["dense/bias"], rtol=1e-6)


def test_a_shape_rule_of_another_rate_needs_rest():
    with pytest.raises(
        ValueError, match=r"shape_rule=original has .*\. Expected rest="
    ):
        muon(0.02, shape_rule=original)
    muon(0.02, shape_rule=match_rms)
    muon(0.02, shape_rule=original, rest=optax.adamw(3e-4))


def test_after_stands_behind_the_scale_and_before_decay_and_rate():
    seen = {}

    def spy(updates, state, params=None, **extra):
        seen.update(updates)
        return jax.tree.map(jnp.zeros_like, updates), state

    after = optax.GradientTransformation(lambda p: optax.EmptyState(), spy)
    tx = muon(0.5, weight_decay=0.1, after=after, polar=svd())
    params = {k: jnp.asarray(v, jnp.float32) for k, v in PARAMS.items()}
    u, _ = tx.update(params, tx.init(params), params)
    assert {k: v.shape for k, v in seen.items()} == {
        "dense/kernel": (7, 4),
        "blocks/kernel": (3, 2, 5),
    }
    rms = float(jnp.sqrt(jnp.mean(seen["dense/kernel"] ** 2)))
    assert rms == pytest.approx(0.2, rel=1e-4)
    np.testing.assert_allclose(  # the link dropped the direction: decay is left
        u["dense/kernel"], -0.05 * params["dense/kernel"], rtol=1e-5
    )


def test_place_wraps_the_matrix_links_only():
    calls = []

    class Listening(Here):
        def update(self, links, leaves, *args):
            calls.append(sorted(leaves))
            return super().update(links, leaves, *args)

    params = {k: jnp.asarray(v, jnp.float32) for k, v in PARAMS.items()}
    ours, theirs = muon(0.1), muon(0.1, place=Listening())
    a, _ = ours.update(params, ours.init(params), params)
    b, _ = theirs.update(params, theirs.init(params), params)
    assert calls == [["blocks/kernel", "dense/kernel"]]
    for name in params:
        np.testing.assert_array_equal(a[name], b[name])


def test_the_layout_routes():
    layout = rules(("blocks", MatrixView((-1,), (-2,))), ("", None))
    with pytest.raises(ValueError, match="matches rules that disagree"):
        muon(0.1, layout=layout).init({k: jnp.asarray(v) for k, v in PARAMS.items()})
    layout = rules(("blocks", MatrixView((-1,), (-2,))), ("dense", None))
    params = {k: jnp.asarray(v, jnp.float32) for k, v in PARAMS.items()}
    state = muon(0.1, layout=layout).init(params)
    mu = optax.tree.get(state, "mu")
    assert isinstance(mu["blocks/kernel"], optax.MaskedNode)
    assert mu["dense/kernel"].shape == (4, 7)


def test_changed_coefficients_take_effect_after_a_restore():
    params = {"dense/kernel": jnp.asarray(PARAMS["dense/kernel"], jnp.float32)}
    old = muon(0.1)
    _, state = old.update(params, old.init(params), params)
    new = muon(0.1, polar=newton_schulz([(1.5, -0.5)] * 30))
    u, _ = new.update(params, state, params)  # the state of the old configuration
    s = np.linalg.svd(np.asarray(u["dense/kernel"]) / (0.1 * 0.2 * 7**0.5))[1]
    np.testing.assert_allclose(s, 1, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0 is out of range"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is out of range"),
        ({"learning_rate": 0.1, "b1": 1.0}, "b1=1.0 is out of range"),
        ({"learning_rate": 0.1, "weight_decay": -0.1}, "weight_decay=-0.1 is out of"),
    ],
)
def test_bad_numbers(arguments, match):
    with pytest.raises(ValueError, match=match + r".*\. Expected .*\. Change "):
        muon(**arguments)
