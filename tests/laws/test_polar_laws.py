# SPDX-License-Identifier: Apache-2.0
"""What every polar kernel must obey, whatever its coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import matrix
from orthoptax.matrix import newton_schulz, small_side_first, svd

KERNELS = {
    name: newton_schulz(getattr(matrix, name))
    for name in matrix.__all__
    if name.isupper()
} | {"svd": svd()}
SHAPES = [(5, 5), (4, 9), (1, 6), (2, 3, 7)]
RNG = np.random.default_rng(0)


def random(shape):
    return RNG.normal(size=shape)


def rotation(n):
    return np.linalg.qr(random((n, n)))[0]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_equivariance(name, shape):
    polar = small_side_first(jax.jit(KERNELS[name]))
    x = random(shape)
    o = np.asarray(polar(jnp.asarray(x)))
    u, v = rotation(shape[-2]), rotation(shape[-1])
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    near(polar(jnp.asarray(u @ x @ v)), u @ o @ v)
    near(polar(jnp.asarray(-x)), -o)
    near(polar(jnp.asarray(3.7e8 * x)), o)
    near(polar(jnp.asarray(np.swapaxes(x, -1, -2))), np.swapaxes(o, -1, -2))


@pytest.mark.parametrize("name", KERNELS)
def test_batch_equals_loop_and_zero_and_nan_stay_apart(name):
    polar = jax.jit(KERNELS[name])
    x = random((5, 3, 7))
    x[1] = 0
    x[2, 0, 0] = np.nan
    out = np.asarray(polar(jnp.asarray(x)))
    assert np.all(out[1] == 0)
    assert np.isnan(out[2]).any()
    for i in (0, 1, 3, 4):
        np.testing.assert_allclose(out[i], polar(jnp.asarray(x[i])), atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_complex_matrices_have_complex_polar_factors(name):
    x = random((4, 6)) + 1j * random((4, 6))
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    o = np.asarray(KERNELS[name](jnp.asarray(x)))
    mapped = u.conj().T @ o @ vh.conj().T  # diagonal and real
    np.testing.assert_allclose(mapped, np.diag(np.diag(mapped).real), atol=1e-9)
    assert np.diag(mapped).real.min() > 0.4


@pytest.mark.parametrize("size", [1e-20, 1e20])
@pytest.mark.parametrize("name", KERNELS)
def test_twenty_decades_in_single_precision(name, size):
    x = random((4, 9))
    one, other = (KERNELS[name](jnp.asarray(x * s, jnp.float32)) for s in (1.0, size))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
