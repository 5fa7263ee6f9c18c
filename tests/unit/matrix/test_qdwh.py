# SPDX-License-Identifier: Apache-2.0
"""Halley's iteration against SVD, on spectra that Newton-Schulz does not finish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import Inner, halley_weights, qdwh
from tests.zoo import QUICKLY

M, N = 12, 30
TABLE = {  # l_0: (steps to 1e-15, to 6e-8, QR steps, 1 - l after the first steps)
    1e-1: (4, 3, 0, (0.13, 5e-5, 2e-15)),
    1e-2: (4, 3, 1, (0.49, 5e-3, 2e-9)),
    1e-3: (4, 4, 1, (0.75, 0.037, 8e-7)),
    1e-4: (4, 4, 1, (0.88, 0.11, 3e-5)),
    1e-7: (5, 4, 2, (0.99, 0.47, 4e-3, 1e-9)),
    1e-16: (6, 5, 2, (1, 0.94, 0.22, 2e-4, 2e-13)),
}


def spectra(cols):
    """Gaussian; geometric to 1e-2, 1e-3, 1e-6; 1/k; some ones, or one, and noise."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.normal(size=(M, M)))[0]
    v = np.linalg.qr(rng.normal(size=(cols, M)))[0]
    noise = rng.normal(size=(M, cols)) / (np.sqrt(M) + np.sqrt(cols))
    ones = lambda count: (u * (np.arange(M) < count)) @ v.T
    return np.stack([
        rng.normal(size=(M, cols)),
        *((u * np.geomspace(1, low, M)) @ v.T for low in (1e-2, 1e-3, 1e-6)),
        (u / np.arange(1, M + 1)) @ v.T,
        ones(3) + 1e-3 * noise,
        ones(1) + 1e-2 * noise,
    ])  # fmt: skip


def compiled(polar):
    """One program for each shape and dtype that the tests share."""
    return jax.jit(polar, compiler_options=QUICKLY)


QDWH = compiled(qdwh())


def exact(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("lower", TABLE)
def test_weights_against_the_published_table(lower):
    many, few, by_qr, left = TABLE[lower]
    steps = halley_weights(lower)
    assert len(steps) == many
    assert len(halley_weights(lower, 6e-8)) == few
    assert sum(step.c > 100 for step in steps) == by_qr
    for step, want in zip(steps, left, strict=False):
        digits = 2 if want > 0.01 and want < 1 else 1
        unit = 10 ** (np.floor(np.log10(want)) + 1 - digits)
        np.testing.assert_allclose(1 - step.lower, want, rtol=0, atol=0.6 * unit)


def test_first_weights_to_the_digit():
    first, second = halley_weights(1e-7)[:2]
    np.testing.assert_allclose(
        first[:3], (116960.70954561, 3419893414.2486, 3420010373.9582), rtol=1e-12
    )
    np.testing.assert_allclose(
        second[:3], (48.945161747, 574.68463384, 622.62979549), rtol=1e-9
    )


@pytest.mark.parametrize("lower", [1e-1, 1e-4, 1e-16])
def test_weights_equioscillate_as_the_best_rational_function_does(lower):
    x, low = np.geomspace(lower, 1, 4001), lower
    for a, b, c, after in halley_weights(lower)[:2]:
        x = np.union1d(x, [low])
        y = x * (a + b * x**2) / (1 + c * x**2)
        assert y.min() >= after * (1 - 1e-7)
        np.testing.assert_allclose(y.max(), 1, rtol=1e-9)
        np.testing.assert_allclose(y[0], after, rtol=1e-9)
        x, low = np.sort(y), after


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 4e-15), ("float32", 8e-7)])
@pytest.mark.parametrize("cols", [M, N])
def test_singular_values_reach_one_on_every_spectrum(dtype, bound, cols):
    x = spectra(cols)
    with jax.enable_x64(True):
        o = np.asarray(QDWH(jnp.asarray(x, dtype)), np.float64)
    values = np.linalg.svd(o, compute_uv=False)
    assert np.abs(values - 1).max() < bound
    # The factor itself is known to the rounding over the least singular value.
    least = np.linalg.svd(x, compute_uv=False)
    known = np.linalg.norm(o - exact(x), axis=(-2, -1)) * least[:, -1] / least[:, 0]
    assert known.max() < bound


def test_a_bound_that_is_too_high_leaves_small_directions_short():
    x = jnp.asarray(spectra(M)[3:4], jnp.float32)
    values = np.linalg.svd(compiled(qdwh(1e-2))(x), compute_uv=False)[0]
    assert values[0] > 0.999
    assert values[-1] < 0.1


def test_zero_scale_and_dtype():
    x = spectra(M)
    x[0] = 0
    out = np.asarray(QDWH(jnp.asarray(x, jnp.float32)))
    np.testing.assert_array_equal(out[0], 0)
    for size in (2.0**-100, 2.0**100):  # a power of two moves no digit
        scaled = QDWH(jnp.asarray(size * x, jnp.float32))
        np.testing.assert_array_equal(scaled, out)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        struct = jax.ShapeDtypeStruct((2, M, N), jnp.bfloat16)
        assert jax.eval_shape(qdwh(), struct) == struct


def test_complex_factor():
    x = spectra(N)[1] + 1j * spectra(N)[2]
    out = np.asarray(compiled(qdwh(1e-3))(jnp.asarray(x, jnp.complex64)))
    np.testing.assert_allclose(out, exact(x), atol=5e-4)
    np.testing.assert_allclose(out @ out.conj().T, np.eye(M), atol=2e-6)


def test_cut_columns_take_cholesky_steps_and_refuse_qr_steps():
    x = spectra(N)[:1].astype(np.float32)
    cut = jax.pmap(
        lambda x: qdwh(0.05)(x, inner=Inner("tp")),
        axis_name="tp",
        devices=jax.devices()[:2],
    )
    halves = np.stack(np.split(x, 2, axis=-1))
    whole = np.concatenate(np.asarray(cut(halves)), axis=-1)
    np.testing.assert_allclose(whole, compiled(qdwh(0.05))(jnp.asarray(x)), atol=1e-5)
    with pytest.raises(
        ValueError, match=r"qdwh: the long axis is cut over 'tp'\. Expected .*\. Pass"
    ):
        qdwh()(jnp.asarray(x), inner=Inner("tp"))  # type: ignore[call-arg]


@pytest.mark.parametrize("lower", [0.0, 1.0, -0.1, 1e-30, float("nan")])
def test_bounds_that_are_none(lower):
    with pytest.raises(
        ValueError, match=r"qdwh: lower=.* is out of range\. Expected .*\. Change lower"
    ):
        qdwh(lower)
