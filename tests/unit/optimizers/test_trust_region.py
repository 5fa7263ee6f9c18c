# SPDX-License-Identifier: Apache-2.0
"""One optimizer under three names, each as an identity; its start, its constraint."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import muon, trust_region
from orthoptax.matrix import frobenius_ball, row_ball, sign_ball, spectral_ball, svd
from orthoptax.transforms import original, unscaled

RNG = np.random.default_rng(0)
SHAPES = {"dense/kernel": (4, 7), "blocks/kernel": (3, 5, 2)}
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(5)]
ONE = "dense/kernel"


def path(tx, names=tuple(SHAPES), params=PARAMS):
    """The parameters after each step, in float64."""
    with jax.enable_x64(True):
        cut = lambda tree: {k: jnp.asarray(tree[k]) for k in names}
        params, steps, update = cut(params), [], jax.jit(tx.update)
        state = tx.init(params)
        for g in GRADS:
            u, state = update(cut(g), state, params)
            params = optax.apply_updates(params, u)
            steps.append(jax.tree.map(np.asarray, params))
    return steps


def assert_same_path(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-11, atol=1e-13)


def test_spectral_is_muon():
    same = {"b1": 0.8, "nesterov": True, "weight_decay": 0.3}
    rest = optax.set_to_zero()
    ours = trust_region(0.05, norm=spectral_ball(svd()), rest=rest, **same)
    theirs = muon(0.05, polar=svd(), shape_rule=unscaled, rest=rest, **same)
    assert_same_path(path(ours), path(theirs))


def test_the_default_is_spectral():
    ours = trust_region(0.05, b1=0.8)
    theirs = muon(0.05, b1=0.8, nesterov=False, shape_rule=unscaled, rest=optax.sgd(1))
    assert_same_path(path(ours, [ONE]), path(theirs, [ONE]))


def test_frobenius_is_normalized_sgd_with_momentum():
    ours = trust_region(0.05, b1=0.8, norm=frobenius_ball())
    theirs = optax.chain(
        optax.ema(0.8, debias=False),
        optax.normalize_by_update_norm(eps=0.0),
        optax.sgd(0.05),
    )
    assert_same_path(path(ours, [ONE]), path(theirs, [ONE]))


def test_sign_is_sign_sgd():
    ours = trust_region(0.05, b1=0.0, norm=sign_ball())
    assert_same_path(path(ours), path(optax.sign_sgd(0.05)))


def test_sign_with_momentum_is_sign_sgd_with_momentum():
    ours = trust_region(0.05, b1=0.8, norm=sign_ball())
    theirs = optax.chain(optax.ema(0.8, debias=False), optax.sign_sgd(0.05))
    assert_same_path(path(ours), path(theirs))


@pytest.mark.parametrize("first_gradient", [False, True])
def test_where_momentum_starts(first_gradient):
    ours = trust_region(
        0.05, b1=0.8, norm=frobenius_ball(), first_gradient=first_gradient
    )
    w, m = PARAMS[ONE].copy(), GRADS[0][ONE] if first_gradient else 0.0
    for g, step in zip(GRADS, path(ours, [ONE]), strict=True):
        m = 0.8 * m + 0.2 * g[ONE]
        w = w - 0.05 * m / np.linalg.norm(m)
        np.testing.assert_allclose(step[ONE], w, rtol=1e-11)


def test_rows_are_outputs():
    """Flax stores (inputs, outputs): the rows of the matrix are its columns."""
    (w, *_) = path(trust_region(0.5, b1=0.0, norm=row_ball()), [ONE])
    g = GRADS[0][ONE]
    want = PARAMS[ONE] - 0.5 * g / np.linalg.norm(g, axis=0)
    np.testing.assert_allclose(w[ONE], want, rtol=1e-11)


def test_a_shape_rule_of_any_rate_asks_for_no_rest():
    ours = trust_region(0.5, b1=0.0, norm=sign_ball(), shape_rule=original)
    (w, *_) = path(ours, [ONE])  # 7 outputs, 4 inputs
    step = np.sqrt(7 / 4) * 0.5 * np.sign(GRADS[0][ONE])
    np.testing.assert_allclose(w[ONE], PARAMS[ONE] - step, rtol=1e-11)


def test_decay_keeps_the_weights_in_the_ball():
    radius, start = 0.6, {k: np.zeros(s) for k, s in SHAPES.items()}
    tx = trust_region(0.2, b1=0.5, norm=sign_ball(), weight_decay=1 / radius)
    largest = [max(np.abs(x).max() for x in s.values()) for s in path(tx, params=start)]
    assert max(largest) <= radius
    assert largest[-1] > 0.5 * radius


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"learning_rate": -1.0}, "trust_region: learning_rate=-1.0 is out of range"),
        ({"learning_rate": 0.1, "b1": 1.0}, "b1=1.0 is out of range"),
        ({"learning_rate": 0.1, "weight_decay": -0.1}, "weight_decay=-0.1 is out of"),
    ],
)
def test_bad_numbers(arguments, match):
    with pytest.raises(ValueError, match=match + r".*\. Expected .*\. Change "):
        trust_region(**arguments)


def test_a_norm_that_is_no_function():
    match = r"lmo: norm='sign' is not a function\. Expected a function\. Pass for "
    with pytest.raises(TypeError, match=match):
        trust_region(0.1, norm="sign")
