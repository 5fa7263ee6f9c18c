# SPDX-License-Identifier: Apache-2.0
"""Running norms, of matrices and of columns, against their recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import divide_by_norm, divide_columns

RNG = np.random.default_rng(0)
GRADS = RNG.normal(size=(4, 2, 3, 5))
U = RNG.normal(size=(2, 3, 5))


def run(tx, grads, dtype=jnp.float32):
    """What U becomes at each step, and the last state."""
    u = {"w": jnp.asarray(U, dtype)}
    state, update, out = tx.init(u), jax.jit(tx.update), []
    for g in grads:
        result, state = update(u, state, grad={"w": jnp.asarray(g, dtype)})
        out.append(np.asarray(result["w"]))
    return np.stack(out), state


CASES = {  # the axes of the norm, and what eps does to the root of the mean of squares
    divide_by_norm: ((-2, -1), lambda v, eps: np.sqrt(v) + eps),
    divide_columns: ((-2,), lambda v, eps: np.sqrt(v + eps)),
}
both = pytest.mark.parametrize("make", CASES, ids=lambda m: m.__name__)


@both
@pytest.mark.parametrize("eps", [0.0, 0.7])
def test_against_the_recursion(make, eps, x64):
    axes, divisor = CASES[make]
    found, state = run(make(0.6, eps=eps), GRADS, jnp.float64)
    v = 0.0
    for g, out in zip(GRADS, found, strict=True):
        v = 0.6 * v + 0.4 * np.sum(g**2, axis=axes, keepdims=True)
        np.testing.assert_allclose(out, U / divisor(v, eps), rtol=1e-12)
    np.testing.assert_allclose(state.norm["w"], np.sqrt(v), rtol=1e-12)
    assert int(state.count) == len(GRADS)


@both
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(make, scale):
    want, _ = run(make(), GRADS)
    found, _ = run(make(), np.float32(scale) * GRADS.astype(np.float32))
    np.testing.assert_allclose(found.astype(np.float64) * scale, want, rtol=1e-5)


def test_a_column_without_gradients_goes_to_zero():
    grads = GRADS.copy()
    grads[..., 2] = 0
    found, _ = run(divide_columns(), grads)
    assert not found[..., 2].any()
    assert np.isfinite(found).all()


@both
def test_zero_gradients_give_zero(make):
    found, _ = run(make(), 0 * GRADS)
    assert not found.any()


@both
def test_without_grad_its_own_input_is_measured(make):
    u = {"w": jnp.asarray([[3.0], [4.0]])}
    found, _ = make(0.0).update(u, make(0.0).init(u))
    np.testing.assert_allclose(found["w"][:, 0], [0.6, 0.8], rtol=1e-6)


@both
def test_bad_input(make):
    name = make.__name__
    with pytest.raises(ValueError, match=rf"{name}: b2=1 is out .*\. Expected .*\. C"):
        make(1)
    with pytest.raises(ValueError, match=rf"{name}: eps=-1 .*\. Expected .*\. Change"):
        make(eps=-1)
    with pytest.raises(ValueError, match=rf"{name}: leaf 'w' .*\. Expected .*\. Wrap"):
        make().init({"w": jnp.ones(3)})
