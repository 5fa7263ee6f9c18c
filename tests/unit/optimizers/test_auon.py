# SPDX-License-Identifier: Apache-2.0
"""AuON and its hybrid against their formulas in float64 NumPy; AuON's cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import MatrixView, auon, hybrid_auon, rules
from orthoptax.matrix import JORDAN, newton_schulz, svd

RNG = np.random.default_rng(0)
SHAPES = {"tall": (7, 4), "wide": (4, 7), "stack": (2, 7, 4)}
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(3)]
ROWS_FIRST = rules(("", MatrixView((-2,), (-1,))))


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def updates(tx, grads=GRADS, dtype="float32"):
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params, out = cast(PARAMS), []
    state, update = tx.init(params), jax.jit(tx.update)
    for g in grads:
        u, state = update(cast(g), state, params)
        out.append({k: np.asarray(v, np.float64) for k, v in u.items()})
    return out


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_against_numpy(hybrid, normalize):
    lr, b1, gamma, wd = 0.03, 0.9, 2.0, 0.4
    make = functools.partial(hybrid_auon, polar=svd()) if hybrid else auon
    with jax.enable_x64(True):
        tx = make(
            lr, b1=b1, gamma=gamma, normalize=normalize, weight_decay=wd,
            layout=ROWS_FIRST,
        )  # fmt: skip
        ours = updates(tx, dtype="float64")
    for name, w in PARAMS.items():
        m = 0
        for g, u in zip(GRADS, ours, strict=True):
            m = b1 * m + (1 - b1) * g[name]
            d = b1 * m + (1 - b1) * g[name]
            d = polar(d) if hybrid else d
            x = d / np.sqrt(np.sum(d * d, axis=(-2, -1), keepdims=True))
            cosh = np.cosh(gamma * x)
            r = np.sqrt(np.mean(cosh**2, axis=(-2, -1), keepdims=True))
            want = -lr * ((x if normalize else d) / r + wd * w)
            np.testing.assert_allclose(u[name], want, rtol=1e-8, err_msg=name)


def test_the_hybrid_of_the_paper_takes_one_stage():
    tx = hybrid_auon(1.0, b1=0.0, polar=newton_schulz(JORDAN[:1]), layout=ROWS_FIRST)
    g = GRADS[0]["wide"]
    x = g / np.linalg.norm(g)
    a, b, c = 3.4445, -4.7750, 2.0315
    o = a * x + (b * x @ x.T + c * x @ x.T @ x @ x.T) @ x
    r = np.sqrt(np.mean(np.cosh(1.5 * o / np.linalg.norm(o)) ** 2))
    np.testing.assert_allclose(updates(tx)[0]["wide"], -o / r, rtol=1e-4, atol=1e-6)


def test_a_zero_gradient_leaves_decay_alone():
    zero = jax.tree.map(np.zeros_like, GRADS[0])
    for make in (auon, hybrid_auon):
        tx = make(0.5, weight_decay=0.1, normalize=True, layout=ROWS_FIRST)
        (u,) = updates(tx, [zero])
        for name, w in PARAMS.items():
            np.testing.assert_allclose(u[name], -0.05 * w, rtol=1e-5)


def compiled(tx, size):
    """The optimized program of one step on a square matrix."""
    params = {"dense": {"kernel": jax.ShapeDtypeStruct((size, size), jnp.float32)}}
    state = jax.eval_shape(tx.init, params)
    return jax.jit(tx.update).lower(params, state, params).compile()


def test_no_matrix_product_and_linear_cost():
    # The hybrid shows that the words are there to be found, and the cost cubic.
    small, large = (compiled(auon(0.1), size) for size in (64, 256))
    assert " dot(" not in large.as_text()
    assert "custom-call" not in large.as_text()
    flops = lambda program: program.cost_analysis()["flops"]
    assert flops(large) == pytest.approx(16 * flops(small), rel=0.05)
    product = compiled(hybrid_auon(0.1), 64).as_text()
    assert " dot(" in product or "custom-call" in product


@pytest.mark.parametrize("make", [auon, hybrid_auon])
def test_bad_numbers(make):
    with pytest.raises(ValueError, match=r"gamma=-1.0 is out of range\. Expected .*\."):
        make(0.1, gamma=-1.0)
