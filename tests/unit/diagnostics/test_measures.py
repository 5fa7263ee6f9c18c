# SPDX-License-Identifier: Apache-2.0
"""Measures of matrices against float64 formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.diagnostics import (
    orthogonality_error,
    probe,
    rms,
    spectral_norm,
    update_to_weight,
)
from orthoptax.matrix import newton_schulz, small_side_first

KEY = jax.random.key(3)


def exact_error(x):
    """||O O^T - I||_F / sqrt(r) in float64."""
    x = np.asarray(x, np.float64)
    x = x.T if x.shape[0] > x.shape[1] else x
    rows = x.shape[0]
    o = x * np.sqrt(rows) / np.linalg.norm(x)
    return np.linalg.norm(o @ o.T - np.eye(rows)) / np.sqrt(rows)


def matrices(rng):
    """Matrices of many spectra, in float64."""
    gauss = rng.normal(size=(32, 32))
    q, _ = np.linalg.qr(gauss)
    return {
        "square": gauss,
        "wide": rng.normal(size=(16, 64)),
        "tall": rng.normal(size=(64, 16)),
        "half rank": rng.normal(size=(32, 16)) @ rng.normal(size=(16, 32)),
        "decaying": (q * np.logspace(0, -3, 32)) @ q.T,
        "row": rng.normal(size=(1, 8)),
    }


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rms_at_any_scale(rng, scale):
    x = rng.normal(size=(3, 4, 5))
    found = rms(jnp.asarray(x * scale, jnp.float32))
    assert found.shape == (3,)
    np.testing.assert_allclose(
        found, scale * np.sqrt(np.mean(x**2, axis=(1, 2))), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_everything_is_float32(dtype, x64):
    x = jnp.ones((2, 3, 4), dtype)
    for found in (*probe(x, jnp.ones((2, 3, 5), jnp.float32)), rms(x)):
        assert found.dtype == jnp.float32
        assert found.shape == (2,)


def test_sixteen_bit_entries_are_summed_in_float32():
    # In float16 the sum of 4096 squares of 16 overflows; in bfloat16 it stops at 256.
    assert rms(jnp.full((64, 64), 16, jnp.float16)) == 16
    assert rms(jnp.full((64, 64), 16, jnp.bfloat16)) == 16


def test_update_to_weight(rng):
    u, w = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 4, 5))
    expected = np.linalg.norm(u, axis=(1, 2)) / np.linalg.norm(w, axis=(1, 2))
    found = update_to_weight(jnp.asarray(u, jnp.float32), jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_update_to_weight_at_zero():
    zero, one = jnp.zeros((2, 2)), jnp.ones((2, 2))
    assert update_to_weight(zero, one) == 0
    assert update_to_weight(zero, zero) == 0
    assert update_to_weight(one, zero) == np.inf


def test_error_is_that_of_the_formula(rng):
    for name, x in matrices(rng).items():
        found = orthogonality_error(jnp.asarray(x, jnp.float32), KEY, probes=4096)
        np.testing.assert_allclose(
            found, exact_error(x), rtol=0.05, atol=1e-5, err_msg=name
        )


def test_few_probes_are_right_on_average(rng):
    x = jnp.asarray(rng.normal(size=(24, 48)), jnp.float32)
    many = jax.vmap(lambda key: orthogonality_error(x, key))(
        jax.random.split(KEY, 2000)
    )
    found = np.asarray(many, np.float64)
    # 2000 estimates of relative deviation 0.1: the mean square is known to 0.5 %.
    np.testing.assert_allclose(np.mean(found**2), exact_error(x) ** 2, rtol=0.02)
    assert np.std(found) < 0.1 * np.mean(found)


def test_error_ignores_scale_and_transposition(rng):
    x = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
    expected = orthogonality_error(x, KEY)
    for other in (1e-25 * x, 1e25 * x, x.T):
        np.testing.assert_allclose(orthogonality_error(other, KEY), expected, rtol=1e-5)


def test_orthogonal_zero_and_nan(rng):
    q, _ = np.linalg.qr(rng.normal(size=(16, 8)))
    x = jnp.asarray(np.stack([q, 0 * q, np.nan * q]), jnp.float32)
    error, norm = probe(x, jax.random.normal(KEY, (3, 8, 4)))
    assert error[0] < 1e-5
    np.testing.assert_allclose(error[1], 1, rtol=1e-6)
    assert norm[1] == 0
    assert np.isnan(error[2])
    assert np.isnan(norm[2])
    np.testing.assert_allclose(norm[0], 1, rtol=1e-5)


def test_spectral_norm_is_a_lower_bound_that_closes(rng):
    for name, x in matrices(rng).items():
        true = np.linalg.norm(x, 2)
        for scale in (1e-25, 1.0, 1e25):
            y = jnp.asarray(scale * x, jnp.float32)
            few, many = (spectral_norm(y, KEY, steps=n) / scale for n in (3, 200))
            assert 0.75 * true < few < (1 + 1e-5) * true, name
            np.testing.assert_allclose(many, true, rtol=5e-3, err_msg=name)


def test_spectral_norm_of_a_direction_of_muon(rng):
    polar = jax.jit(small_side_first(newton_schulz()))
    for shape in ((32, 32), (32, 96), (128, 64)):
        o = polar(jnp.asarray(rng.normal(size=shape), jnp.float32))
        ratio = spectral_norm(o, KEY) / np.linalg.norm(np.asarray(o), 2)
        assert 0.9 < ratio < 1 + 1e-5


def test_error_and_norm_share_products(rng):
    x = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
    z = jax.random.normal(KEY, (8, 4))
    assert probe(x, z, steps=1)[0] == probe(x, z, steps=3)[0]
    jaxpr = str(jax.make_jaxpr(lambda x, z: probe(x, z, steps=3))(x, z))
    assert jaxpr.count("dot_general[") == 2 * 3


def test_what_the_documentation_says_of_known_matrices(rng):
    def error(x):
        return float(orthogonality_error(jnp.asarray(x, jnp.float32), KEY, probes=512))

    polar = jax.jit(small_side_first(newton_schulz()))
    for m, n in ((128, 128), (128, 256), (128, 512)):
        x = rng.normal(size=(m, n))
        np.testing.assert_allclose(error(x), np.sqrt(m / n), rtol=0.05)
        np.testing.assert_allclose(error(np.sign(x)), np.sqrt(m / n), rtol=0.05)
        assert 0.30 < error(polar(jnp.asarray(x, jnp.float32))) < 0.40
    for k in (8, 16, 24):
        part = np.diag([1.0] * k + [0.0] * (32 - k))
        np.testing.assert_allclose(error(part), np.sqrt(32 / k - 1), rtol=0.05)
