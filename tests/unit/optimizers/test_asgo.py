# SPDX-License-Identifier: Apache-2.0
"""ASGO and DASGO against their recursions, and ASGO against Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import asgo, dasgo, muon
from orthoptax.matrix import eigen_root, svd

RNG = np.random.default_rng(0)
SHAPES = {"a/kernel": (5, 3), "b/kernel": (3, 5), "c/kernel": (3, 3)}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(4)]
W = {k: RNG.normal(size=s) for k, s in SHAPES.items()}


def steps(tx, grads=GRADS, dtype=jnp.float64):
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params = cast(W)
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in grads:
        u, state = update(cast(g), state, params)
        out.append({k: np.asarray(v) for k, v in u.items()})
    return out


def aligned(u):
    """Entries of root-mean-square 0.2."""
    return 0.2 * u / np.sqrt(np.mean(u**2))


def inverse_root(v):
    s, q = np.linalg.eigh(v)
    return (q / np.sqrt(s)) @ q.T


@pytest.mark.parametrize("root", [None, eigen_root()], ids=["default", "eigen"])
def test_asgo_against_numpy(root, x64):
    """Rows are outputs: W has (in, out), so G here is the transpose of the leaf."""
    found = steps(asgo(0.1, b1=0.8, b2=0.6, weight_decay=0.5, root=root))
    for name, w in W.items():
        m = v = 0.0
        for g, u in zip((step[name].T for step in GRADS), found, strict=True):
            m = 0.8 * m + 0.2 * g
            left = g.shape[0] < g.shape[1]
            v = 0.6 * v + 0.4 * (g @ g.T if left else g.T @ g)
            d = inverse_root(v) @ m if left else m @ inverse_root(v)
            want = -0.1 * (aligned(d).T + 0.5 * w)
            np.testing.assert_allclose(u[name], want, rtol=1e-5, err_msg=name)


def test_dasgo_against_numpy(x64):
    found = steps(dasgo(0.1, b1=0.8, b2=0.6, eps=0.3, weight_decay=0.5))
    for name, w in W.items():
        m = c = 0.0
        for g, u in zip((step[name].T for step in GRADS), found, strict=True):
            m = 0.8 * m + 0.2 * g
            c = 0.6 * c + 0.4 * np.sum(g**2, axis=0)  # a number an input
            want = -0.1 * (aligned(m / np.sqrt(c + 0.3)).T + 0.5 * w)
            np.testing.assert_allclose(u[name], want, rtol=1e-9, err_msg=name)


def test_without_memory_asgo_is_muon(x64):
    """V^(-1/2) G = polar(G), and both have root-mean-square 0.2."""
    ours = steps(asgo(0.1, b1=0.0, b2=0.0, root=eigen_root()))
    theirs = steps(muon(0.1, b1=0.0, polar=svd()))
    for a, b in zip(ours, theirs, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-7, err_msg=name)


def test_a_zero_gradient_at_first_moves_nothing():
    zero = {k: np.zeros(s) for k, s in SHAPES.items()}
    for tx in (asgo(0.1), dasgo(0.1)):
        first, second = steps(tx, [zero, GRADS[0]], jnp.float32)
        assert not any(u.any() for u in first.values())
        assert all(np.isfinite(u).all() and u.any() for u in second.values())


def test_an_absolute_epsilon_needs_the_matrix_itself(x64):
    """With eps far above V, (V^(1/2) + eps I)^(-1) is I/eps: nothing is whitened."""
    tx = asgo(0.1, b1=0.0, root=eigen_root(1e9), absolute=True)
    for g, u in zip(GRADS, steps(tx), strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(u[name], -0.1 * aligned(g[name]), rtol=1e-6)
