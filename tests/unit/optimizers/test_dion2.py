# SPDX-License-Identifier: Apache-2.0
"""Dion2 and NorDion2 against their recursion in float64 NumPy, and their identities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import dion2, dion3, layout, nordion2, on_matrices
from orthoptax.layout.links import Here
from orthoptax.matrix import svd
from orthoptax.transforms import (
    keep_norm,
    momentum,
    normalize_neurons,
    orthogonalize,
    random_slices,
    scale_by_learning_rate,
    scale_by_shape,
    spectral_norm,
)

RNG = np.random.default_rng(0)
SHAPES = {"dense/kernel": (9, 5), "blocks/kernel": (3, 4, 6)}  # inputs x outputs
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(5)]


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def run(tx):
    """Parameters and state after all gradients, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        state, update = tx.init(params), jax.jit(tx.update)
        for g in GRADS:
            u, state = update(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, u)
    return params, state


def recursion(w, grads, *, axis, fraction, lr, b1, wd, b2=None):
    """The published lines for one matrix W of outputs x inputs; axis 0 is its rows."""
    m, v, scale = (
        np.zeros_like(w),
        np.zeros(w.shape[0]),
        np.sqrt(w.shape[0] / w.shape[1]),
    )
    for g in grads:
        m = m + g
        k = max(1, math.ceil(fraction * w.shape[axis]))
        chosen = np.argsort(np.abs(m).sum(1 - axis))[-k:]
        part = [slice(None), slice(None)]
        part[axis] = chosen
        o = polar(m[tuple(part)])
        m[tuple(part)] *= b1
        if b2 is not None:
            v[chosen] = b2 * v[chosen] + (1 - b2) * np.mean(o**2, axis=1)
            even = o / np.sqrt(v[chosen])[:, None]
            o = even * np.linalg.norm(o) / np.linalg.norm(even)
        w = w * (1 - lr * wd)
        w[tuple(part)] -= lr * scale * o
    return w, m, v


@pytest.mark.parametrize("b2", [None, 0.8])
def test_against_numpy(b2):
    numbers = {"lr": 0.03, "b1": 0.9, "wd": 0.4, "fraction": 0.4}
    common = {
        "b1": 0.9, "weight_decay": 0.4, "fraction": 0.4, "polar": svd(),
    }  # fmt: skip
    tx = dion2(0.03, **common) if b2 is None else nordion2(0.03, b2=b2, **common)
    params, state = run(tx)
    for name, layers in (("dense/kernel", [...]), ("blocks/kernel", range(3))):
        for i in layers:
            rows = PARAMS[name][i].T
            axis = int(b2 is None and rows.shape[0] > rows.shape[1])
            grads = [g[name][i].T for g in GRADS]
            w, m, v = recursion(rows, grads, axis=axis, b2=b2, **numbers)
            np.testing.assert_allclose(params[name][i].T, w, rtol=1e-9, err_msg=name)
            kept = optax.tree.get(state, "momentum")[name][i].T
            np.testing.assert_allclose(kept, m, atol=1e-12)
            if b2 is not None:
                found = optax.tree.get(state, "second_moment")[name][i][:, 0]
                np.testing.assert_allclose(found, v, atol=1e-12)


@pytest.mark.parametrize("even", [(), (keep_norm(normalize_neurons(0.95)),)])
def test_the_whole_matrix_is_the_sum_form_without_nesterov(even):
    """Fraction 1: sum-form Muon, and sum-form NorMuon."""
    chain = optax.chain(
        momentum(0.95, ema=False, nesterov=False),
        on_matrices(orthogonalize(svd()), *even, scale_by_shape(spectral_norm)),
        scale_by_learning_rate(0.03),
    )
    tx = (nordion2 if even else dion2)(0.03, fraction=1.0, polar=svd())
    ours, theirs = run(tx)[0], run(chain)[0]
    for name, p in ours.items():
        np.testing.assert_allclose(p, theirs[name], rtol=1e-12, atol=1e-12)


def test_slices_that_are_not_chosen_only_decay():
    params = {"dense/kernel": jnp.asarray(PARAMS["dense/kernel"], jnp.float32)}
    tx = dion2(0.1, weight_decay=0.5)
    u, _ = jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)
    decayed = np.isclose(u["dense/kernel"], -0.05 * params["dense/kernel"], rtol=1e-6)
    assert decayed.all(axis=0).sum() == 3  # of 5 outputs, 2 were chosen


def test_choose_reaches_the_compressor():
    params = {"dense/kernel": jnp.asarray(PARAMS["dense/kernel"], jnp.float32)}
    seen = set()
    tx = dion2(0.1, choose=random_slices)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(12):
        u, state = update(params, state, params)
        seen.add(tuple(np.flatnonzero(np.any(u["dense/kernel"] != 0, axis=0))))
    assert len(seen) > 4


def test_dion3_is_nordion2():
    assert dion3 is nordion2


@pytest.mark.parametrize("optimizer", [dion2, nordion2])
def test_arguments_reach_their_links(optimizer):
    calls = []

    class Listening(Here):
        def update(self, links, leaves, *args):
            calls.append(sorted(leaves))
            return super().update(links, leaves, *args)

    def spy(updates, state, params=None):
        calls.append("after")
        return updates, state

    only = layout.rules(("dense", None), ("blocks", layout.MatrixView((-1,), (-2,))))
    after = optax.GradientTransformation(lambda p: optax.EmptyState(), spy)
    words = {"mu_dtype": jnp.bfloat16, "place": Listening()}
    tx = optimizer(0.1, layout=only, after=after, **words)
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in SHAPES.items()}
    state = jax.eval_shape(tx.init, params)
    mu = optax.tree.get(state.matrix, "momentum")
    assert isinstance(mu["dense/kernel"], optax.MaskedNode)
    assert mu["blocks/kernel"].dtype == jnp.bfloat16
    jax.eval_shape(tx.update, params, state, params)
    assert calls == [["blocks/kernel"], "after"]


@pytest.mark.parametrize("optimizer", [dion2, nordion2])
@pytest.mark.parametrize("fraction", [0, -0.5, 1.25, float("nan")])
def test_bad_fractions(optimizer, fraction):
    with pytest.raises(
        ValueError, match=r"fraction=.* is out .*\. Expected .*\(0, 1\]"
    ):
        optimizer(0.1, fraction=fraction)
