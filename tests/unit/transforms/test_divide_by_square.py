# SPDX-License-Identifier: Apache-2.0
"""Division by squares against the recursions, at any scale, of another vector."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.transforms import divide_by_mean_square, divide_by_sum_of_squares

RNG = np.random.default_rng(0)
STEPS = RNG.normal(size=(4, 3, 5))


def outputs(tx, steps, dtype, grads=None):
    """The result of each update."""
    state, out = tx.init({"w": jnp.zeros(steps[0].shape, dtype)}), []
    update = jax.jit(tx.update)
    for i, u in enumerate(steps):
        extra = {} if grads is None else {"grad": {"w": jnp.asarray(grads[i], dtype)}}
        w, state = update({"w": jnp.asarray(u, dtype)}, state, **extra)
        out.append(np.asarray(w["w"]))
    return out


@pytest.mark.parametrize(("eps", "floor"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.6)])
@pytest.mark.parametrize("root", [False, True])
def test_against_the_recursions(eps, floor, root):
    b2, mean, total, power = 0.7, 0.0, 0.0, 0.5 if root else 1.0
    arguments = {"eps": eps, "floor": floor, "root": root}
    with jax.enable_x64(True):
        means = outputs(divide_by_mean_square(b2, **arguments), STEPS, "float64")
        totals = outputs(divide_by_sum_of_squares(**arguments), STEPS, "float64")
    for t, u in enumerate(STEPS, start=1):
        mean, total = b2 * mean + (1 - b2) * u * u, total + u * u
        by = np.maximum((mean / (1 - b2**t)) ** power, floor) + eps
        np.testing.assert_allclose(means[t - 1], u / by, rtol=1e-11)
        by = np.maximum(total**power, floor) + eps
        np.testing.assert_allclose(totals[t - 1], u / by, rtol=1e-11)


def test_the_raw_gradient_is_measured_where_it_is_told():
    with jax.enable_x64(True):
        tx = divide_by_mean_square(0.5, root=True)
        (out,) = outputs(tx, STEPS[:1], "float64", grads=STEPS[1:2])
    np.testing.assert_allclose(out, STEPS[0] / np.abs(STEPS[1]))


@pytest.mark.parametrize("make", [divide_by_mean_square, divide_by_sum_of_squares])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_beyond_the_range_of_float32(make, scale):
    out = outputs(make(), [STEPS[0] * scale], "float32")[0].astype(np.float64)
    np.testing.assert_allclose(out * scale, 1 / STEPS[0], rtol=1e-5)


def test_with_a_weight_near_one_no_digits_are_lost():
    # 1 - 0.9999^2 as a difference of float32 numbers has four digits.
    out = outputs(divide_by_mean_square(0.9999, root=True), STEPS[[0, 0]], "float32")
    np.testing.assert_allclose(out[1], np.sign(STEPS[0]), rtol=3e-6)


def test_rooted_it_is_rmsprop():
    theirs = optax.scale_by_rms(0.9, eps=1e-3, eps_in_sqrt=False, bias_correction=True)
    ours = divide_by_mean_square(0.9, eps=1e-3, root=True)
    pair = [outputs(tx, STEPS, "float32") for tx in (ours, theirs)]
    np.testing.assert_allclose(*pair, rtol=1e-5)


def test_zero_entries_stay_zero():
    steps = np.zeros((2, 3))
    for tx in (divide_by_mean_square(), divide_by_sum_of_squares()):
        assert not np.any(outputs(tx, steps, "float32"))


def test_state_is_float32_for_narrow_parameters():
    state = divide_by_mean_square().init({"w": jnp.ones(3, jnp.bfloat16)})
    assert state.size["w"].dtype == jnp.float32
