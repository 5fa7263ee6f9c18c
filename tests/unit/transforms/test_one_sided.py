# SPDX-License-Identifier: Apache-2.0
"""ASGO's preconditioner against eigendecompositions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import eigen_root
from orthoptax.transforms import one_sided

RNG = np.random.default_rng(0)
SHAPES = {"tall": (5, 3), "wide": (2, 3, 4), "square": (3, 3)}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(3)]
U = {k: RNG.normal(size=s) for k, s in SHAPES.items()}


DEFAULT = one_sided()
FORGETFUL = one_sided(1e-30)  # forgets at once
UPDATES = {tx: jax.jit(tx.update) for tx in (DEFAULT, FORGETFUL)}  # compiled once


def run(tx, grads, u=U, dtype=jnp.float64):
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)
    state, update = tx.init(cast(u)), UPDATES.get(tx) or jax.jit(tx.update)
    for g in grads:
        out, state = update(cast(u), state, grad=cast(g))
    return jax.tree.map(np.asarray, out), state


def inverse_root(v, eps=0.0):
    s, q = np.linalg.eigh(v)
    return (q / (np.sqrt(np.abs(s)) + eps)[..., None, :]) @ np.swapaxes(q, -1, -2)


def test_against_the_recursion_on_the_smaller_side(x64):
    found, state = run(one_sided(0.7, root=eigen_root()), GRADS)
    t = lambda x: np.swapaxes(x, -1, -2)
    for name in SHAPES:
        left, v = name == "wide", 0.0
        for g in (step[name] for step in GRADS):
            v = 0.7 * v + 0.3 * (g @ t(g) if left else t(g) @ g)
        z = inverse_root(v)
        want = z @ U[name] if left else U[name] @ z
        np.testing.assert_allclose(found[name], want, rtol=1e-7, err_msg=name)
        whole = state.scale[name] ** 2 * state.gram[name]
        np.testing.assert_allclose(whole, v, rtol=1e-12, atol=1e-14)
        assert 1 <= state.gram[name].max() < 4  # of each matrix; of one that is here
    assert int(state.count) == len(GRADS)


def test_the_papers_form(x64):
    """V <- V + G G^T on the left, (V^(1/2) + eps I)^(-1) U."""
    tx = one_sided(
        root=eigen_root(0.3), left=lambda rows, cols: True, ema=False, absolute=True
    )
    grads = [{k: g[k] for k in ("wide", "square")} for g in GRADS]
    found, _ = run(tx, grads, {k: U[k] for k in ("wide", "square")})
    for name in found:
        v = sum(g[name] @ np.swapaxes(g[name], -1, -2) for g in grads)
        np.testing.assert_allclose(
            found[name], inverse_root(v, 0.3) @ U[name], rtol=1e-7, err_msg=name
        )


def test_of_one_gradient_it_is_the_polar_factor(x64):
    """Without memory, V = G G^T and V^(-1/2) G = polar(G), for any default."""
    found, _ = run(FORGETFUL, GRADS[:1], GRADS[0])
    for name, g in GRADS[0].items():
        p, _, q = np.linalg.svd(g, full_matrices=False)
        np.testing.assert_allclose(found[name], p @ q, atol=1e-5)


@pytest.mark.parametrize("power", [-80, 80])
def test_the_same_bits_at_any_power_of_two(power):
    scaled = jax.tree.map(lambda g: 2.0**power * g, GRADS)
    other, _ = run(DEFAULT, scaled, scaled[0], jnp.float32)
    first, _ = run(DEFAULT, GRADS, GRADS[0], jnp.float32)
    for name in SHAPES:
        np.testing.assert_array_equal(other[name], first[name], err_msg=name)
        assert np.isfinite(other[name]).all()


def test_the_unit_follows_the_gradients_down_and_up():
    sizes = (1.0, 1e-15, 1e-30, 1e-30, 1e25)
    grads = [jax.tree.map(lambda g, s=s: s * g, GRADS[0]) for s in sizes]
    for n, size in ((4, 1e-30), (5, 1e25)):
        found, _ = run(FORGETFUL, grads[:n], grads[n - 1], jnp.float32)
        for name in SHAPES:
            norm = np.linalg.norm(found[name], 2, axis=(-2, -1))
            np.testing.assert_allclose(norm, 1, atol=1e-2, err_msg=f"{name} {size}")


def test_zero_gradients_give_zero_and_no_nan():
    zero = jax.tree.map(np.zeros_like, U)
    for grads in ([zero], [zero, GRADS[0], zero]):
        found, _ = run(DEFAULT, grads, zero, jnp.float32)
        assert not any(x.any() for x in found.values())
    found, _ = run(DEFAULT, [zero], U, jnp.float32)
    assert not any(x.any() for x in found.values())


def test_the_state_is_of_the_side_that_left_says():
    u = {k: jnp.ones(s) for k, s in SHAPES.items()}
    sizes = lambda tx: {k: v.shape for k, v in tx.init(u).gram.items()}
    assert sizes(one_sided()) == {"tall": (3, 3), "wide": (2, 3, 3), "square": (3, 3)}
    rows = sizes(one_sided(left=lambda rows, cols: True))
    assert rows == {"tall": (5, 5), "wide": (2, 3, 3), "square": (3, 3)}


def test_bad_input():
    with pytest.raises(ValueError, match=r"one_sided: b2=1 is .*\. Expected .*\. Chan"):
        one_sided(1)
    for name in ("root", "left"):
        with pytest.raises(
            TypeError, match=rf"{name}=3 is not .*\. Expected .*\. Pass"
        ):
            one_sided(**{name: 3})
    with pytest.raises(ValueError, match=r"leaf 'w' .* not a matrix\. Expected .*\. W"):
        one_sided().init({"w": jnp.ones(3)})
