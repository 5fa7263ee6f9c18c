# SPDX-License-Identifier: Apache-2.0
"""The certified gain: a scale for nothing, and the schedule it allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    BY_GAIN,
    JORDAN,
    OURS,
    block_products,
    by_gain,
    gram_newton_schulz,
    newton_schulz,
    schatten_8,
)
from orthoptax.matrix.gains import gain_of
from orthoptax.matrix.inner import Inner, local

RNG = np.random.default_rng(0)


def with_values(s, cols):
    u, v = (np.linalg.qr(RNG.normal(size=(k, len(s))))[0] for k in (len(s), cols))
    return u, v, u * s @ v.T


def values(schedule, x):
    for stage in schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    return x


def eighth(s):
    return np.sum(s**8) ** 0.125


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_scale_against_numpy(dtype):
    x = RNG.normal(size=(3, 4, 9)).astype(dtype)
    x = x * (1 + 1j) if dtype == "complex128" else x
    s = np.linalg.svd(x, compute_uv=False)
    want = x / np.stack([eighth(v) for v in s])[:, None, None]
    with jax.enable_x64(True):
        got, gram, square = jax.jit(lambda x: schatten_8()(x, local))(jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(gram, want @ want.conj().mT, atol=1e-12)
    np.testing.assert_allclose(square, np.linalg.matrix_power(gram, 2), atol=1e-12)


def test_scale_of_zero_of_nan_and_of_any_size():
    x = jnp.asarray(RNG.normal(size=(4, 3, 5)), jnp.float32)
    x = x.at[0].set(0).at[1, 0, 0].set(jnp.nan).at[2].multiply(2.0**-90)
    out = jax.jit(lambda x: schatten_8()(x, local))(x)
    for part in out:
        assert np.all(part[0] == 0)
        assert np.isnan(part[1]).any()
        assert np.isfinite(part[2:]).all()
    top = np.linalg.svd(np.asarray(out.x[2:]), compute_uv=False)[:, 0]
    assert np.all((top > 0.7) & (top <= 1.00001))


@pytest.mark.parametrize("products", [None, block_products(1)])
@pytest.mark.parametrize("kernel", [newton_schulz, gram_newton_schulz])
def test_it_costs_no_product(kernel, products):
    x = jnp.ones((6, 24))
    unrolled = {"unroll": True} if kernel is newton_schulz else {"restarts": (2,)}

    def dots(**options):
        polar = kernel(OURS, products=products, **unrolled, **options)
        return str(jax.make_jaxpr(polar)(x)).count("dot_general")

    assert dots(scale=schatten_8()) == dots()


@pytest.mark.parametrize("schedule", [OURS, JORDAN])
def test_iteration_from_the_square_follows_the_recurrence(schedule):
    s = np.geomspace(1, 1e-3, 6)
    u, v, x = with_values(s, 9)
    want = u * values(schedule, s / eighth(s)) @ v.T
    with jax.enable_x64(True):
        for kernel in (newton_schulz, gram_newton_schulz):
            out = jax.jit(kernel(schedule, scale=schatten_8()))(jnp.asarray(x))
            np.testing.assert_allclose(out, want, rtol=0, atol=1e-9)


def test_each_matrix_takes_the_schedule_of_its_gain():
    spectra = [
        np.ones(64),  # gain 64^(3/8) = 4.8
        np.r_[1, np.full(63, 1e-3)],  # 1
        np.r_[np.ones(6), np.zeros(58)],  # 6^(3/8) = 1.96
    ]
    made = [with_values(s, 80) for s in spectra]
    x = np.stack([x for *_, x in made])
    with jax.enable_x64(True):
        out = np.asarray(jax.jit(by_gain())(jnp.asarray(x)))
        gains = np.asarray(gain_of(jnp.asarray(x)))
    for i, (s, (u, v, _), passed) in enumerate(
        zip(spectra, made, (3.0, 1.0, 1.5), strict=True)
    ):
        assert gains[i] == pytest.approx(np.linalg.norm(s) / eighth(s))
        want = u * values(BY_GAIN[passed], s / eighth(s)) @ v.T
        np.testing.assert_allclose(out[i], want, rtol=0, atol=1e-9)


def test_batches_are_loops_and_zero_stays_zero():
    x = jnp.asarray(RNG.normal(size=(2, 2, 5, 9)), jnp.float32).at[0, 0].set(0)
    table = {1: JORDAN[:2], 1.2: JORDAN[:1]}
    polar = jax.jit(by_gain(table, products=block_products(1)))
    out = polar(x)
    assert np.all(out[0, 0] == 0)
    np.testing.assert_allclose(out[1, 0], polar(x[1, 0]), rtol=0, atol=1e-6)
    assert jax.eval_shape(by_gain(), x.astype("bfloat16")).dtype == jnp.bfloat16


def test_bad_tables_and_cut_matrices():
    with pytest.raises(ValueError, match=r"by_gain: a table for gains \[2\] leaves"):
        by_gain({2: OURS})
    with pytest.raises(ValueError, match=r"by_gain: gain=0.5 is out of range"):
        by_gain({0.5: OURS, 1: OURS})
    with pytest.raises(ValueError, match=r"by_gain: the long axis is cut over 'tp'"):
        by_gain()(jnp.ones((2, 4)), inner=Inner("tp"))  # type: ignore[call-arg]
