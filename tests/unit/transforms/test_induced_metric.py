# SPDX-License-Identifier: Apache-2.0
"""The induced metric against its recursions, in range of no square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import (
    divide_by_mean_square,
    of_log_graph,
    scale_by_induced_metric,
)

RNG = np.random.default_rng(0)
GRADS = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(4, 2, 2))}
LOSSES = (2.0, 0.5, 1.0, 3.0)


def outputs(tx, scale=1.0, dtype="float64", losses=LOSSES):
    """The result of each update."""
    with jax.enable_x64(dtype == "float64"):
        grads = [
            {k: jnp.asarray(scale * g[t], dtype) for k, g in GRADS.items()}
            for t in range(4)
        ]
        state, update, out = tx.init(grads[0]), jax.jit(tx.update), []
        for g, value in zip(grads, losses, strict=True):
            updates, state = update(g, state, value=value)
            out.append(jax.tree.map(np.asarray, updates))
    return out


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("rms", [False, True])
def test_against_the_recursions(log, rms):
    b1, b2, b3, xi, eps = 0.9, 0.7, 0.8, 0.3, 0.1
    inner = divide_by_mean_square(b3, eps=eps, root=True) if rms else None
    metric = of_log_graph if log else None
    got = outputs(scale_by_induced_metric(inner, b1=b1, b2=b2, xi=xi, metric=metric))
    m, r, e = dict.fromkeys(GRADS, 0.0), dict.fromkeys(GRADS, 0.0), 0.0
    for t, f in enumerate(LOSSES, start=1):
        g = {k: GRADS[k][t - 1] for k in GRADS}
        m = {k: b1 * m[k] + (1 - b1) * g[k] for k in g}
        r = {k: b3 * r[k] + (1 - b3) * g[k] ** 2 for k in g}
        by = {k: np.sqrt(r[k] / (1 - b3**t)) + eps if rms else 1.0 for k in g}
        e = b2 * e + (1 - b2) * xi * sum(np.sum(g[k] ** 2 / by[k]) for k in g)
        unbiased = e / (1 - b2**t)
        factor = f / (f**2 + unbiased) if log else 1 / (1 + unbiased)
        for k in g:
            want = factor * m[k] / (1 - b1**t) / by[k]
            np.testing.assert_allclose(got[t - 1][k], want, rtol=1e-11)


@pytest.mark.parametrize("scale", [1e-25, 1e18])
def test_gradients_whose_squares_are_no_float32(scale):
    (first, *_) = outputs(scale_by_induced_metric(xi=1.0), scale, "float32")
    square = sum(np.sum(g[0] ** 2) for g in GRADS.values())
    want = GRADS["a"][0] / (1 / scale + scale * square)
    np.testing.assert_allclose(first["a"].astype(np.float64), want, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_length_is_kept_as_its_root(scale):
    g = {k: jnp.asarray(scale * x[0], jnp.float32) for k, x in GRADS.items()}
    tx = scale_by_induced_metric(b2=0.75, xi=1.0)
    _, state = tx.update(g, tx.init(g))
    size = np.sqrt(sum(np.sum(x[0] ** 2) for x in GRADS.values()))
    np.testing.assert_allclose(state.length / scale, size / 2, rtol=1e-5)


def test_a_loss_without_a_logarithm_moves_nothing():
    tx = scale_by_induced_metric(metric=of_log_graph)
    for out in outputs(tx, losses=(0.0, -1.0, 0.0, -5.0)):
        assert not np.any(out["a"])


def test_only_the_logarithm_asks_for_the_loss():
    g = {"w": jnp.ones(2)}
    tx = scale_by_induced_metric()
    assert np.all(np.isfinite(tx.update(g, tx.init(g))[0]["w"]))
    tx = scale_by_induced_metric(metric=of_log_graph)
    with pytest.raises(ValueError, match=r"missing 'value'\. Expected the loss"):
        tx.update(g, tx.init(g))
    with pytest.raises(TypeError, match="metric='log' is not a function"):
        scale_by_induced_metric(metric="log")
