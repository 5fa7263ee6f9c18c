# SPDX-License-Identifier: Apache-2.0
"""Newton directions against NumPy's solve, and what stops them early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import newton_direction

RNG = np.random.default_rng(0)
Q = np.linalg.qr(RNG.normal(size=(7, 7)))[0]
H = (Q * np.logspace(0, 2, 7)) @ Q.T
W = RNG.normal(size=7)


def split(x):
    return {"a": x[:3], "b": x[3:].reshape(2, 2)}


def joined(tree):
    return jnp.concatenate([jnp.ravel(tree[k]) for k in sorted(tree)])


def solve(matrix, grad, dtype="float64", extra=None, aux=False, **arguments):
    """(direction, products) for the quadratic form of a matrix."""
    with jax.enable_x64(dtype == "float64"):
        tx = newton_direction(has_aux=aux, **arguments)
        m, params = jnp.asarray(matrix, dtype), split(jnp.asarray(W, dtype))

        def loss(p):
            value = joined(p) @ m @ joined(p) / 2
            return (value, "aux") if aux else value

        update = jax.jit(lambda g, s, p: tx.update(g, s, p, obj_fn=loss, **extra or {}))
        grads = split(jnp.asarray(grad, dtype))
        out, state = update(grads, tx.init(params), params)
        return np.asarray(joined(out)), int(state.products)


@pytest.mark.parametrize("aux", [False, True])
def test_the_system_is_solved(aux):
    got, products = solve(H, H @ W, tolerance=1e-24, aux=aux)
    np.testing.assert_allclose(got, W, rtol=1e-9)
    assert 5 <= products <= 12


def test_a_looser_tolerance_takes_fewer_products_and_holds():
    got, products = solve(H, H @ W, tolerance=1e-2)
    residual = H @ W - H @ got
    assert residual @ residual <= 1e-2 * (H @ W) @ (H @ W)
    assert products < solve(H, H @ W, tolerance=1e-24)[1]
    assert solve(H, H @ W, tolerance=0.0, max_products=2)[1] == 2


def test_a_diagonal_preconditioner_solves_a_diagonal_at_once():
    d = np.logspace(-2, 2, 7)
    extra = {"hessian_diag": split(-d)}  # its sign is not asked for
    got, products = solve(np.diag(d), d * W, extra=extra)
    np.testing.assert_allclose(got, W, rtol=1e-9)
    assert products == 1
    stale = {**extra, "hessian_fresh": False}
    assert solve(np.diag(d), d * W, extra=stale)[1] > 1


def test_without_positive_curvature_the_gradient_itself():
    got, products = solve(-H, W)
    np.testing.assert_allclose(got, W, rtol=1e-12)
    assert products == 1


def test_the_first_direction_of_negative_curvature_ends_it():
    # Conjugate gradients in NumPy up to the direction that bends down.
    m = (Q * [1.0, 2, 3, -0.5, 4, 5, 6]) @ Q.T
    x, r = np.zeros(7), W.copy()
    p = r.copy()
    while p @ m @ p > 0:
        a = r @ r / (p @ m @ p)
        x, new = x + a * p, r - a * m @ p
        p, r = new + (new @ new) / (r @ r) * p, new
    assert np.any(x)
    np.testing.assert_allclose(solve(m, W, tolerance=0.0)[0], x, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25])
def test_gradients_of_any_scale(scale):
    got, _ = solve(np.diag(np.arange(1.0, 8)), scale * W, "float32", tolerance=1e-12)
    want = scale * W / np.arange(1.0, 8)
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=1e-4)


def test_nan_is_shown():
    got, products = solve(H, np.where(np.arange(7) == 2, np.nan, W))
    assert np.all(np.isnan(got))
    assert products == 0


def test_mixed_dtypes_keep_their_own():
    tx = newton_direction()
    params = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}
    loss = lambda p: sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in p.values())
    out, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, obj_fn=loss)
    assert {k: x.dtype for k, x in out.items()} == {
        k: x.dtype for k, x in params.items()
    }
    np.testing.assert_allclose(out["a"].astype(jnp.float32), 1.0)


def test_an_objective_that_is_no_number_is_explained():
    tx, w = newton_direction(), {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"obj_fn returned .*Expected one real number"):
        tx.update(w, tx.init(w), w, obj_fn=lambda p: p["w"])
    with pytest.raises(ValueError, match=r"missing 'obj_fn'\. Expected the loss as a"):
        tx.update(w, tx.init(w), w)
