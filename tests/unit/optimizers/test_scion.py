# SPDX-License-Identifier: Apache-2.0
"""Scion against its lines in NumPy, and the balls that its iterates stay in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import scion
from orthoptax.matrix import svd
from orthoptax.transforms import unscaled

RNG = np.random.default_rng(0)
SHAPES = {
    "dense/kernel": (4, 7), "dense/bias": (7,), "embed/embedding": (6, 3), "scale": ()
}  # fmt: skip
PARAMS = {k: 0.1 * RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) + 0.5 for k, s in SHAPES.items()} for _ in range(4)]


def path(tx, params, grads=GRADS):
    with jax.enable_x64(True):
        params, steps = jax.tree.map(jnp.asarray, params), []
        state, update = tx.init(params), jax.jit(tx.update)
        for g in grads:
            u, state = update(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, u)
            steps.append(jax.tree.map(np.asarray, params))
    return steps


def direction(name, m):
    """Of a leaf with unit radius; 7 outputs and 4 inputs."""
    if name == "dense/kernel":
        u, _, vh = np.linalg.svd(m, full_matrices=False)
        return np.sqrt(7 / 4) * u @ vh
    return np.sign(m) if m.ndim > 1 else m / np.sqrt(np.mean(m**2))


@pytest.mark.parametrize("weight_decay", [1.0, 0.0])  # constrained, and not
def test_against_numpy(weight_decay):
    lr, b1, radius, rest = 0.1, 0.7, 3.0, 0.5
    tx = scion(
        lr, b1=b1, radius=radius, rest_radius=rest, weight_decay=weight_decay,
        polar=svd(),
    )  # fmt: skip
    got = path(tx, PARAMS)[-1]
    for name in SHAPES:
        w, m = PARAMS[name], 0.0
        for g in GRADS:
            m = b1 * m + (1 - b1) * g[name]
            size = radius if name == "dense/kernel" else rest
            w = (1 - lr * weight_decay) * w - lr * size * direction(name, m)
        np.testing.assert_allclose(got[name], w, rtol=1e-9, err_msg=name)


def test_iterates_stay_in_their_balls():
    tx = scion(0.3, radius=2.0, rest_radius=0.5, polar=svd(), shape_rule=unscaled)
    sizes = {
        "dense/kernel": (lambda w: np.linalg.norm(w, 2), 2.0),
        "dense/bias": (lambda w: np.sqrt(np.mean(w**2)), 0.5),
        "embed/embedding": (lambda w: np.abs(w).max(), 0.5),
        "scale": (np.abs, 0.5),
    }
    start = {k: np.zeros(s) for k, s in SHAPES.items()}
    steps = path(tx, start, GRADS * 3)
    for name, (size, radius) in sizes.items():
        reached = [size(step[name]) for step in steps]
        assert max(reached) <= radius * (1 + 1e-12), name
        assert max(reached) > 0.8 * radius, name  # the bound is felt


def test_another_rest():
    tx, sgd = scion(0.1, rest=optax.sgd(0.5)), path(optax.sgd(0.5), PARAMS)[-1]
    got = path(tx, PARAMS)[-1]
    np.testing.assert_allclose(got["dense/bias"], sgd["dense/bias"], rtol=1e-12)
    assert np.max(np.abs(got["dense/kernel"] - sgd["dense/kernel"])) > 0.1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"learning_rate": -1.0}, "scion: learning_rate=-1.0 is out of range"),
        ({"learning_rate": 0.1, "b1": 1.0}, "b1=1.0 is out of range"),
        ({"learning_rate": 0.1, "radius": -2.0}, "radius=-2.0 is out of range"),
        ({"learning_rate": 0.1, "rest_radius": -2.0}, "scion: rest_radius=-2.0 is out"),
        ({"learning_rate": 0.1, "weight_decay": -0.1}, "weight_decay=-0.1 is out of"),
    ],
)
def test_bad_numbers(arguments, match):
    with pytest.raises(ValueError, match=match + r".*\. Expected .*\. Change "):
        scion(**arguments)
