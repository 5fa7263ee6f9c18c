# SPDX-License-Identifier: Apache-2.0
"""SPEL, Muon-Hyperball and Muown: their lines in NumPy, and what they hold constant."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import muon_hyperball, muown, spel
from orthoptax.matrix import svd
from orthoptax.transforms import original, scale_by_adam

RNG = np.random.default_rng(0)
SHAPES = {"blocks/kernel": (2, 3, 5)}  # as Flax stores it: 5 outputs, 3 inputs
STACK = "blocks/kernel"
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(4)]
NORM = lambda w: np.sqrt(np.sum(np.square(w), axis=(-2, -1), keepdims=True))


def path(tx, params=PARAMS, grads=GRADS, dtype="float64"):
    """The parameters after each step."""
    with jax.enable_x64(dtype == "float64"):
        cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
        params, steps, update = cast(params), [], jax.jit(tx.update)
        state = tx.init(params)
        for g in grads:
            u, state = update(cast(g), state, params)
            params = optax.apply_updates(params, u)
            steps.append({k: np.asarray(v, np.float64) for k, v in params.items()})
    return steps


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def averages(name, b1=0.8, nesterov=False):
    """(gradient, momentum) of each step."""
    m = 0.0
    for g in GRADS:
        m = b1 * m + (1 - b1) * g[name]
        yield g[name], b1 * m + (1 - b1) * g[name] if nesterov else m


def test_spel_against_numpy():
    lr, wd, nesterov = 0.1, 0.4, True
    tx = spel(lr, b1=0.8, nesterov=nesterov, weight_decay=wd, polar=svd())
    steps = path(tx)
    for name in SHAPES:
        w = PARAMS[name]
        for step, (_, m) in zip(steps, averages(name, 0.8, nesterov), strict=True):
            w = polar((1 - lr * wd) * w - lr * polar(m))
            np.testing.assert_allclose(step[name], w, rtol=1e-9, atol=1e-12)


def test_spel_weights_are_orthogonal():
    """Exactly with an exact polar factor (above), else within the iteration's band."""
    for step in path(spel(0.2), dtype="float32"):
        s = np.linalg.svd(step[STACK], compute_uv=False)
        np.testing.assert_allclose(s, 1, atol=0.05)


def descend(tx, w, target):
    """How much of the distance is left after sixty steps."""
    distance = lambda x: np.linalg.norm(x - target)

    def step(carry, _):
        params, state = carry
        gradients = jax.tree.map(lambda x: x - target, params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"dense/kernel": jnp.asarray(w, jnp.float32)}
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=60)
    return distance(params["dense/kernel"]) / distance(w)


def test_both_descend_on_their_sets():
    rate = lambda count: 0.3 * (1 - count / 60)
    target, w = np.linalg.qr(RNG.normal(size=(2, 4, 4)))[0]
    w[:, 0] *= np.linalg.det(w) * np.linalg.det(target)  # the same component
    assert descend(spel(rate), w, target) < 0.2
    assert descend(muon_hyperball(rate), w, target) < 0.2


@pytest.mark.parametrize(("radius", "nesterov"), [(None, False), (2.0, True)])
def test_hyperball_against_numpy(radius, nesterov):
    lr, wd = 0.1, 0.4
    tx = muon_hyperball(
        lr, b1=0.8, nesterov=nesterov, radius=radius, weight_decay=wd, polar=svd()
    )
    start = {k: (radius or 1.0) * v / NORM(v) for k, v in PARAMS.items()}
    steps = path(tx, start)
    for name, w in start.items():
        for step, (_, m) in zip(steps, averages(name, 0.8, nesterov), strict=True):
            r, o = NORM(start[name]), polar(m)
            w = (1 - lr * wd) * w - lr * r * o / NORM(o)
            w = r * w / NORM(w)
            np.testing.assert_allclose(step[name], w, rtol=1e-9, atol=1e-12)


def test_hyperball_norms_never_change():
    for step in path(muon_hyperball(0.3), dtype="float32"):
        np.testing.assert_allclose(NORM(step[STACK]), NORM(PARAMS[STACK]), rtol=1e-6)


def test_hyperball_puts_weights_on_a_given_radius():
    (first, *_) = path(muon_hyperball(0.1, radius=3.0), dtype="float32")
    np.testing.assert_allclose(NORM(first[STACK]), 3.0, rtol=1e-6)


def test_hyperball_refuses_matrices_of_zeros():
    params = {"blocks/kernel": jnp.ones((3, 5, 2)).at[1].set(0)}
    match = (
        r"muon_hyperball: 'blocks/kernel' of shape \(3, 2, 5\) has a matrix of zeros.*"
        r"\. Expected weights of a norm that is not zero\. Initialize it otherwise"
    )
    with pytest.raises(ValueError, match=match):
        muon_hyperball(0.1).init(params)
    jax.eval_shape(muon_hyperball(0.1).init, params)  # where no value is known


def test_muown_against_numpy():
    """The lines of the docstring on the rows (the columns of what Flax stores)."""
    lr, b1, wd, eps, name = 0.1, 0.8, 0.4, 0.5, STACK
    adam = scale_by_adam(0.6, 0.7, eps=eps)
    tx = muown(lr, b1=b1, weight_decay=wd, magnitude=adam, polar=svd())
    w = PARAMS[name].mT
    g = length = np.linalg.norm(w, axis=-1, keepdims=True)
    m = first = second = 0.0
    for t, (step, grads) in enumerate(zip(path(tx), GRADS, strict=True), start=1):
        grad, unit = grads[name].mT, w / g
        v = unit * length
        by_g = np.sum(grad * unit, axis=-1, keepdims=True)
        m = b1 * m + (1 - b1) * g / length * (grad - unit * by_g)
        v = v - lr * 0.2 * np.sqrt(5) * polar(m)
        first, second = 0.6 * first + 0.4 * by_g, 0.7 * second + 0.3 * by_g**2
        adam_step = first / (1 - 0.6**t) / (np.sqrt(second / (1 - 0.7**t)) + eps)
        g = (1 - lr * wd) * (g - lr * adam_step)
        length = np.linalg.norm(v, axis=-1, keepdims=True)
        w = g * v / length
        np.testing.assert_allclose(step[name], w.mT, rtol=1e-9)


def test_muown_rate_of_the_rest():
    with pytest.raises(ValueError, match=r"muown: shape_rule=original .*\. Expected r"):
        muown(0.1, shape_rule=original)
    muown(0.1, shape_rule=original, rest=optax.sgd(0.1))


@pytest.mark.parametrize("optimizer", [spel, muon_hyperball, muown])
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0 is out of range"),
        ({"learning_rate": 0.1, "b1": 1.0}, "b1=1.0 is out of range"),
        ({"learning_rate": 0.1, "weight_decay": -0.1}, "weight_decay=-0.1 is out of"),
    ],
)
def test_bad_numbers(optimizer, arguments, match):
    with pytest.raises(ValueError, match=match + r".*\. Expected .*\. Change "):
        optimizer(**arguments)


def test_a_bad_radius():
    match = r"muon_hyperball: radius=-1.0 is out of range\. Expected .*\. Change radius"
    with pytest.raises(ValueError, match=match):
        muon_hyperball(0.1, radius=-1.0)
