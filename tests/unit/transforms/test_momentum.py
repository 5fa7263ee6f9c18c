# SPDX-License-Identifier: Apache-2.0
"""Every form of momentum against its recursion in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import momentum

RNG = np.random.default_rng(0)
GRADS = RNG.normal(size=(6, 3, 4))


def recursion(grads, b1, *, ema, nesterov, bias_correction):
    """The published lines, one gradient at a time."""
    m, out = np.zeros_like(grads[0]), []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g if ema else b1 * m + g
        fresh = (1 - b1) * g if ema else g
        if bias_correction and nesterov:  # optax 0.2.8 contrib.muon
            out.append(b1 * m / (1 - b1 ** (t + 1)) + fresh / (1 - b1**t))
        elif bias_correction:
            out.append(m / (1 - b1**t))
        else:
            out.append(b1 * m + fresh if nesterov else m)
    return np.stack(out), m


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_against_the_recursion(ema, nesterov, bias_correction):
    flags = {"ema": ema, "nesterov": nesterov, "bias_correction": bias_correction}
    tx = momentum(0.8, **flags)
    want, last = recursion(GRADS, 0.8, **flags)
    with jax.enable_x64(True):
        state = tx.init({"w": jnp.zeros((3, 4), jnp.float64)})
        update = jax.jit(tx.update)
        for g, expected in zip(GRADS, want, strict=True):
            u, state = update({"w": jnp.asarray(g, jnp.float64)}, state)
            np.testing.assert_allclose(u["w"], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(state.momentum["w"], last, rtol=1e-12)
    assert int(state.count) == len(GRADS)


@pytest.mark.parametrize("nesterov", [True, False])
def test_an_average_that_starts_at_the_first_gradient(nesterov):
    """As if the first gradient had been there for ever."""
    tx = momentum(0.8, nesterov=nesterov, first_gradient=True)
    state, m = tx.init({"w": jnp.zeros((3, 4))}), GRADS[0]
    for g in GRADS:
        m = 0.8 * m + 0.2 * g
        u, state = tx.update({"w": jnp.asarray(g, jnp.float32)}, state)
        want = 0.8 * m + 0.2 * g if nesterov else m
        np.testing.assert_allclose(u["w"], want, rtol=1e-5, atol=1e-6)


def test_one_correction_of_the_start():
    match = r"momentum: bias_correction and first_gr.*\. Expected one of them\. Drop "
    with pytest.raises(ValueError, match=match):
        momentum(bias_correction=True, first_gradient=True)


def test_ema_and_sum_differ_by_a_factor():
    run = lambda tx: optax.tree.get(
        tx.update(
            {"w": jnp.asarray(GRADS[0], jnp.float32)}, tx.init({"w": jnp.zeros((3, 4))})
        )[1],
        "momentum",
    )["w"]
    np.testing.assert_allclose(
        run(momentum(0.9)), 0.1 * run(momentum(0.9, ema=False)), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("param", "grad", "mu", "kept"),
    [
        ("float32", "bfloat16", None, "float32"),
        ("bfloat16", "bfloat16", None, "bfloat16"),
        ("bfloat16", "bfloat16", "float32", "float32"),
        ("float16", "float32", None, "float16"),
    ],
)
def test_dtypes(param, grad, mu, kept):
    tx = momentum(mu_dtype=mu)
    state = tx.init({"w": jnp.zeros(3, param)})
    u, after = tx.update({"w": jnp.ones(3, grad)}, state)
    assert u["w"].dtype == grad
    assert state.momentum["w"].dtype == after.momentum["w"].dtype == kept


def test_sixteen_bit_state_is_rounded_once_a_step():
    g = {"w": jnp.full(1, 1 / 3, jnp.bfloat16)}
    tx = momentum(0.95, nesterov=False)
    u, _ = tx.update(g, tx.init(g))
    exact = (1 - np.float32(0.95)) * np.float32(g["w"][0])
    assert u["w"][0] == jnp.asarray(exact, jnp.bfloat16)


@pytest.mark.parametrize("b1", [-0.1, 1.0, float("nan")])
def test_b1_out_of_range(b1):
    with pytest.raises(
        ValueError, match=r"momentum: b1=.* out of range\. Expected .*\[0"
    ):
        momentum(b1)
