# SPDX-License-Identifier: Apache-2.0
"""Row statistics against their recursion in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import normalize_neurons

RNG = np.random.default_rng(0)
STEPS = RNG.normal(size=(4, 2, 3, 5))  # four updates of two (3, 5) matrices
shorter = lambda rows, cols: -1 if rows >= cols else -2


def recursion(updates, b2, eps=0.0, floor=0.0, axis=-1):
    """The published lines."""
    v, out = 0, []
    for u in updates:
        v = b2 * v + (1 - b2) * np.mean(u * u, axis=axis, keepdims=True)
        out.append(u / (np.sqrt(np.maximum(v, floor)) + eps))
    return out, v


@pytest.mark.parametrize(
    ("options", "axis"),
    [
        ({}, -1),
        ({"eps": 0.3}, -1),
        ({"floor": 0.2}, -1),
        ({"axis": shorter}, -2),
        ({"axis": shorter, "floor": 0.2, "eps": 0.1}, -2),
    ],
)
def test_against_the_recursion(options, axis):
    tx = normalize_neurons(0.7, **options)
    constants = {k: v for k, v in options.items() if k != "axis"}
    want, last = recursion(STEPS, 0.7, axis=axis, **constants)
    with jax.enable_x64(True):
        state = tx.init({"w": jnp.asarray(STEPS[0])})
        update = jax.jit(tx.update)
        for u, expected in zip(STEPS, want, strict=True):
            out, state = update({"w": jnp.asarray(u)}, state)
            np.testing.assert_allclose(out["w"], expected, rtol=1e-12)
    np.testing.assert_allclose(state.second_moment["w"], last, rtol=1e-12)


def test_the_shorter_axis_of_a_tall_matrix_is_the_last():
    tx = normalize_neurons(axis=shorter)
    state = tx.init({"tall": jnp.ones((5, 3)), "wide": jnp.ones((3, 5))})
    shapes = {k: v.shape for k, v in state.second_moment.items()}
    assert shapes == {"tall": (5, 1), "wide": (1, 5)}


def test_zero_rows_stay_zero():
    u = jnp.asarray(STEPS[0], jnp.float32).at[:, 1].set(0)
    tx = normalize_neurons()
    state, update = tx.init({"w": u}), jax.jit(tx.update)
    for _ in range(2):
        out, state = update({"w": u}, state)
        assert not np.any(out["w"][:, 1])
        assert np.all(np.isfinite(out["w"]))
        assert np.all(np.abs(out["w"][:, 0]) > 0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(scale):
    # The square of neither is a float32; the first step needs no past.
    u = jnp.asarray(STEPS[0] * scale, jnp.float32)
    tx = normalize_neurons(0.75)
    update = jax.jit(tx.update)
    out, state = update({"w": u}, tx.init({"w": u}))
    np.testing.assert_allclose(out["w"], recursion(STEPS[:1], 0.75)[0][0], rtol=1e-5)
    assert np.all(np.isfinite(state.second_moment["w"]))
    assert np.all(np.isfinite(update({"w": u}, state)[0]["w"]))


@pytest.mark.parametrize(
    ("param", "nu", "kept"),
    [("float32", None, "float32"), ("bfloat16", None, "bfloat16"),
     ("bfloat16", "float32", "float32")],
)  # fmt: skip
def test_dtypes(param, nu, kept):
    tx = normalize_neurons(nu_dtype=nu)
    w = {"w": jnp.ones((2, 3), param)}
    state = tx.init(w)
    out, after = jax.jit(tx.update)(w, state)
    assert out["w"].dtype == param
    assert state.second_moment["w"].dtype == after.second_moment["w"].dtype == kept


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"b2=1.0 is out of range\. Expected .*\. Ch"):
        normalize_neurons(1.0)
    match = r"normalize_neurons: axis=-1 is not a function\. Expected .*\. Pass"
    with pytest.raises(TypeError, match=match):
        normalize_neurons(axis=-1)
    match = r"normalize_neurons: leaf 'b' of shape \(3,\) .*\. Expected .*\. Wrap"
    with pytest.raises(ValueError, match=match):
        normalize_neurons().init({"b": jnp.ones(3)})
