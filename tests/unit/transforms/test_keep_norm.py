# SPDX-License-Identifier: Apache-2.0
"""The norm that comes out is the one that went in, each matrix its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import keep_norm

RNG = np.random.default_rng(0)
U = RNG.normal(size=(3, 4, 5)).astype(np.float32)


def run(tx, u, dtype=jnp.float32):
    w = {"w": jnp.asarray(u, dtype)}
    return np.asarray(jax.jit(tx.update)(w, tx.init(w))[0]["w"], np.float64)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norm_of_each_matrix_is_kept(scale):
    sizes = np.asarray([1, 1e3, 1e-3], np.float32)[:, None, None]
    u = np.float32(scale) * sizes * U
    out = run(keep_norm(optax.scale_by_sign()), u)
    norms = lambda x: np.linalg.norm(x.astype(np.float64), axis=(-2, -1))
    np.testing.assert_allclose(norms(out), norms(u), rtol=1e-5)
    np.testing.assert_array_equal(np.sign(out), np.sign(u))


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ({"eps": 3.0}, lambda norm: norm + 3.0),
        ({"floor": 50.0}, lambda norm: np.maximum(norm, 50.0)),
        ({"floor": 0.5}, lambda norm: norm),
        ({"floor": 50.0, "eps": 1.0}, lambda norm: np.maximum(norm, 50.0) + 1.0),
    ],
)
def test_the_authors_epsilons(options, divisor):
    x = U.astype(np.float64)
    inner = lambda x: x**3
    size = lambda x: np.linalg.norm(x, axis=(-2, -1), keepdims=True)
    want = inner(x) * size(x) / divisor(size(inner(x)))
    cube = optax.stateless(lambda u, _: jax.tree.map(inner, u))
    np.testing.assert_allclose(run(keep_norm(cube, **options), U), want, rtol=1e-5)


def test_zero_stays_zero_and_beside_it_nothing_breaks():
    u = U.copy()
    u[1] = 0
    out = run(keep_norm(optax.scale(2.0)), u)
    np.testing.assert_allclose(out, u, rtol=1e-6)
    assert not out[1].any()
    nothing = keep_norm(optax.set_to_zero())
    assert not run(nothing, U).any()


def test_the_inner_state_is_kept():
    tx = keep_norm(optax.trace(0.5))
    w = {"w": jnp.asarray(U)}
    _, state = jax.jit(tx.update)(w, tx.init(w))
    np.testing.assert_array_equal(state.trace["w"], U)


@pytest.mark.parametrize("name", ["eps", "floor"])
def test_bad_numbers(name):
    with pytest.raises(
        ValueError, match=rf"keep_norm: {name}=-1.0 is out of range\. Expected .*\. Ch"
    ):
        keep_norm(**{name: -1.0})


def test_a_vector_is_refused():
    match = r"keep_norm: leaf 'b' of shape \(3,\) is not a matrix\. Expected .*\. Wrap"
    with pytest.raises(ValueError, match=match):
        keep_norm().init({"b": jnp.ones(3)})
