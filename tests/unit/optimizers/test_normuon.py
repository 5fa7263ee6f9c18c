# SPDX-License-Identifier: Apache-2.0
"""NorMuon against its recursion in float64 NumPy, and its invariants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import MatrixView, by_layout, muon, normuon, on_matrices, rules
from orthoptax.matrix import svd
from orthoptax.transforms import (
    momentum,
    normalize_neurons,
    original,
    orthogonalize,
    rms_align,
    scale_by_learning_rate,
)

RNG = np.random.default_rng(0)
SHAPES = {"tall": (7, 4), "wide": (4, 7), "stack": (2, 7, 4)}
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(4)]
ROWS_FIRST = rules(("", MatrixView((-2,), (-1,))))


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def updates(tx, params=None, grads=None, dtype="float32"):
    """The update of each step at fixed parameters."""
    params = PARAMS if params is None else params
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params, out = cast(params), []
    state, update = tx.init(params), jax.jit(tx.update)
    for g in GRADS if grads is None else grads:
        u, state = update(cast(g), state, params)
        out.append({k: np.asarray(v, np.float64) for k, v in u.items()})
    return out


@functools.cache
def exact(make):
    """The updates at rate 1 with the exact polar factor: one program, three tests."""
    return updates(make(1.0, polar=svd(), layout=ROWS_FIRST))


def norm(x):
    return np.sqrt(np.sum(x * x, axis=(-2, -1), keepdims=True))


def test_against_numpy():
    lr, b1, b2, eps, wd = 0.03, 0.9, 0.7, 0.01, 0.4
    with jax.enable_x64(True):
        tx = normuon(
            lr, b1=b1, b2=b2, eps=eps, weight_decay=wd, polar=svd(), layout=ROWS_FIRST
        )
        ours = updates(tx, dtype="float64")
    for name, w in PARAMS.items():
        m = v = 0
        for g, u in zip(GRADS, ours, strict=True):
            m = b1 * m + (1 - b1) * g[name]
            o = polar(b1 * m + (1 - b1) * g[name])
            v = b2 * v + (1 - b2) * np.mean(o * o, axis=-1, keepdims=True)
            h = o / (np.sqrt(v) + eps)
            h = h * norm(o) / (norm(h) + eps)
            want = -lr * (0.2 * np.sqrt(max(w.shape[-2:])) * h + wd * w)
            np.testing.assert_allclose(u[name], want, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_norm_is_that_of_the_polar_factor(steps):
    for name, u in exact(normuon)[steps - 1].items():
        m, n = u.shape[-2:]
        want = 0.2 * np.sqrt(max(m, n) * min(m, n))  # s sqrt(rank)
        np.testing.assert_allclose(norm(u), want, rtol=1e-5, err_msg=name)


def test_it_is_muon_where_all_rows_have_one_length():
    # Rows of an exact semi-orthogonal wide matrix are unit vectors, at every step.
    for a, b in zip(exact(normuon), exact(muon), strict=True):
        np.testing.assert_allclose(a["wide"], b["wide"], rtol=1e-4, atol=1e-6)
        assert np.max(np.abs(a["tall"] - b["tall"])) > 1e-2
        assert np.max(np.abs(a["stack"] - b["stack"])) > 1e-2


def test_rows_of_the_first_step_have_one_length():
    for name, u in exact(normuon)[0].items():
        lengths = np.linalg.norm(u, axis=-1)
        want = lengths.mean(axis=-1, keepdims=True) + 0 * lengths
        np.testing.assert_allclose(lengths, want, rtol=1e-4, err_msg=name)


def test_blocks_are_matrices_of_their_own():
    blocks, sizes = RNG.normal(size=(3, 10, 4)), (2, 3, 5)
    fused = rules(("", MatrixView((-2,), (-1,), blocks=sizes)))
    together = updates(
        normuon(0.1, polar=svd(), layout=fused),
        {"w": blocks[0]},
        [{"w": g} for g in blocks],
    )
    cut = lambda x: dict(zip("abc", np.split(x, np.cumsum(sizes)[:-1]), strict=True))
    tx = normuon(0.1, polar=svd(), layout=ROWS_FIRST)
    apart = updates(tx, cut(blocks[0]), map(cut, blocks))
    for one, three in zip(together, apart, strict=True):
        for name, part in cut(one["w"]).items():
            atol = 1e-5 * np.max(np.abs(part))
            np.testing.assert_allclose(part, three[name], rtol=0, atol=atol)


def test_the_form_of_the_paper_by_recombination():
    lr, b1, b2 = 0.03, 0.9, 0.7
    chain = optax.chain(
        momentum(b1, nesterov=False),
        on_matrices(
            orthogonalize(svd()), normalize_neurons(b2), rms_align(0.2),
            layout=ROWS_FIRST,
        ),
        scale_by_learning_rate(lr),
    )  # fmt: skip
    ours = updates(by_layout(matrix=chain, layout=ROWS_FIRST))
    m = v = 0
    for g, u in zip(GRADS, ours, strict=True):
        m = b1 * m + (1 - b1) * g["tall"]
        o = polar(m)
        v = b2 * v + (1 - b2) * np.mean(o * o, axis=-1, keepdims=True)
        h = o / np.sqrt(v)
        want = -lr * 0.2 * np.sqrt(h.size) * h / norm(h)
        np.testing.assert_allclose(u["tall"], want, rtol=1e-4, atol=1e-7)


def test_a_shape_rule_of_another_rate_needs_rest():
    match = r"normuon: shape_rule=original has .*\. Expected rest=.*\. Pass"
    with pytest.raises(ValueError, match=match):
        normuon(0.02, shape_rule=original)
    normuon(0.02, shape_rule=original, rest=optax.adamw(3e-4))


@pytest.mark.parametrize("name", ["b2", "eps"])
def test_bad_numbers(name):
    with pytest.raises(ValueError, match=rf"{name}=-0.1 is out of range\. Expected .*"):
        normuon(0.1, **{name: -0.1})
