# SPDX-License-Identifier: Apache-2.0
"""AdaMuon against its recursion in float64 NumPy, and its invariants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import MatrixView, adamuon, rules
from orthoptax.matrix import newton_schulz

RNG = np.random.default_rng(0)
SHAPES = {"tall": (7, 4), "wide": (4, 7), "stack": (2, 7, 4)}
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(4)]
ROWS_FIRST = rules(("", MatrixView((-2,), (-1,))))


def jordan(x):
    """Newton-Schulz and not the exact factor: matrices of signs may be singular."""
    x = x / np.sqrt(np.sum(x * x, axis=(-2, -1), keepdims=True))
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def updates(tx, grads=GRADS, dtype="float32"):
    """The update of each step at fixed parameters, and the last state."""
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params, out = cast(PARAMS), []
    state, update = tx.init(params), jax.jit(tx.update)
    for g in grads:
        u, state = update(cast(g), state, params)
        out.append({k: np.asarray(v, np.float64) for k, v in u.items()})
    return out, state


@functools.cache
def plain():
    """The updates of the defaults at rate 1, the first of them of a zero gradient."""
    zero = jax.tree.map(np.zeros_like, GRADS[0])
    return updates(adamuon(1.0, layout=ROWS_FIRST), [zero, *GRADS])[0]


@pytest.mark.parametrize("b2", [None, 0.6])
def test_against_numpy(b2):
    lr, b1, eps, wd = 0.03, 0.9, 0.01, 0.4
    with jax.enable_x64(True):
        polar = newton_schulz()
        tx = adamuon(
            lr, b1=b1, b2=b2, eps=eps, weight_decay=wd, polar=polar, layout=ROWS_FIRST
        )
        ours, _ = updates(tx, dtype="float64")
    decay = b1 if b2 is None else b2
    for name, w in PARAMS.items():
        m = v = 0
        for g, u in zip(GRADS, ours, strict=True):
            m = b1 * m + (1 - b1) * g[name]
            o = jordan(np.sign(b1 * m + (1 - b1) * g[name]))
            v = decay * v + (1 - decay) * o * o
            h = o / (np.sqrt(v) + eps)
            norm = np.sqrt(np.sum(h * h, axis=(-2, -1), keepdims=True))
            h = h * 0.2 * np.sqrt(np.prod(w.shape[-2:])) / (norm + eps)
            want = -lr * (h + wd * w)
            np.testing.assert_allclose(u[name], want, rtol=1e-8, atol=1e-10)


def test_the_root_mean_square_is_adams():
    for u in plain()[1:]:
        for name, x in u.items():
            rms = np.sqrt(np.mean(x * x, axis=(-2, -1)))
            np.testing.assert_allclose(rms, 0.2, rtol=1e-5, err_msg=name)


def test_the_first_step_with_a_gradient_is_a_sign():
    for name, u in plain()[1].items():
        np.testing.assert_allclose(np.abs(u), 0.2, rtol=1e-4, err_msg=name)


def test_zero_gradients_move_nothing_then_the_next_does():
    first, second, *_ = plain()
    for name in SHAPES:
        assert not first[name].any()
        assert np.all(second[name] != 0)


def test_the_second_moment_stays_in_parameter_coordinates():
    params = {"dense": {"kernel": jnp.ones((4, 2, 3))}}
    layout = rules(("kernel", MatrixView((1, 2), (0,))))
    state = adamuon(0.1, layout=layout, nu_dtype=jnp.float16).init(params)
    v = state.matrix[3].second_moment["dense"]["kernel"]
    assert (v.shape, v.dtype) == ((4, 2, 3), jnp.float16)


@pytest.mark.parametrize(("name", "value"), [("b2", 1.0), ("eps", -0.1)])
def test_bad_numbers(name, value):
    match = rf"{name}={value} is out of range\. Expected .*\. Change {name}"
    with pytest.raises(ValueError, match=match):
        adamuon(0.1, **{name: value})
