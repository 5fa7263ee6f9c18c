# SPDX-License-Identifier: Apache-2.0
"""Elementwise second moments against their recursion, and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import second_moment

RNG = np.random.default_rng(0)
STEPS = RNG.normal(size=(4, 3, 5))


def outputs(tx, updates, dtype):
    """The result of each update, and the last state."""
    state, out = tx.init({"w": jnp.zeros(updates[0].shape, dtype)}), []
    update = jax.jit(tx.update)
    for u in updates:
        w, state = update({"w": jnp.asarray(u, dtype)}, state)
        out.append(np.asarray(w["w"]))
    return out, state


@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("correct", [False, True])
def test_against_the_recursion(eps, correct):
    b2, v = 0.7, 0
    with jax.enable_x64(True):
        tx = second_moment(b2, eps=eps, bias_correction=correct)
        got, state = outputs(tx, STEPS, "float64")
    for t, (u, out) in enumerate(zip(STEPS, got, strict=True), start=1):
        v = b2 * v + (1 - b2) * u * u
        hat = v / (1 - b2**t) if correct else v
        np.testing.assert_allclose(out, u / (np.sqrt(hat) + eps), rtol=1e-12)
    np.testing.assert_allclose(state.second_moment["w"], v, rtol=1e-12)
    assert int(state.count) == len(STEPS)


def test_corrected_it_is_adam_without_momentum():
    theirs = optax.scale_by_adam(b1=0.0, b2=0.9, eps=1e-3)
    ours = second_moment(0.9, eps=1e-3, bias_correction=True)
    pair = [outputs(tx, STEPS, "float32")[0] for tx in (ours, theirs)]
    np.testing.assert_allclose(*pair, rtol=1e-5)


def test_zero_entries_stay_zero():
    u = STEPS[0].copy()
    u[0] = 0
    for out in outputs(second_moment(), [u, u], "float32")[0]:
        assert not out[0].any()
        np.testing.assert_array_equal(np.sign(out), np.sign(u))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(scale):
    # The square of neither is a float32; the first step needs no past.
    out, state = outputs(second_moment(0.75), [STEPS[0] * scale] * 2, "float32")
    np.testing.assert_allclose(out[0], 2 * np.sign(STEPS[0]), rtol=1e-5)
    assert np.all(np.isfinite(out[1]))
    assert np.all(np.isfinite(state.second_moment["w"]))


@pytest.mark.parametrize(
    ("param", "nu", "kept"),
    [("float32", None, "float32"), ("bfloat16", None, "bfloat16"),
     ("bfloat16", "float32", "float32"), ("float32", "float16", "float16")],
)  # fmt: skip
def test_dtypes(param, nu, kept):
    tx = second_moment(nu_dtype=nu)
    w = {"w": jnp.full(3, 1e3, param)}  # its square is more than float16 holds
    state = tx.init(w)
    out, after = jax.jit(tx.update)(w, state)
    assert out["w"].dtype == param
    assert state.second_moment["w"].dtype == after.second_moment["w"].dtype == kept
    assert np.all(np.isfinite(after.second_moment["w"].astype(jnp.float32)))


@pytest.mark.parametrize(("name", "value"), [("b2", 1.0), ("b2", -0.1), ("eps", -1.0)])
def test_bad_numbers(name, value):
    match = rf"second_moment: {name}={value} is out of range\. Expected .*\. Change"
    with pytest.raises(ValueError, match=match):
        second_moment(**{name: value})
