# SPDX-License-Identifier: Apache-2.0
"""Inverse roots against NumPy's eigendecomposition, and each where it is hard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    POLAR_EXPRESS_ROOT,
    eigen_root,
    newton_schulz_root,
    polar_express_root,
)

RNG = np.random.default_rng(0)
ROOTS = {
    "polar_express": polar_express_root(),
    "newton_schulz": newton_schulz_root(),
    "eigen": eigen_root(),
}
each = pytest.mark.parametrize("name", ROOTS)


def gram(d, rank, batch=()):
    """Positive semidefinite, with nonzero eigenvalues in [0.01, 1]."""
    q = np.linalg.qr(RNG.normal(size=(*batch, d, d)))[0][..., :rank]
    return (q * np.linspace(0.01, 1, rank)) @ np.swapaxes(q, -1, -2)


def inverse_root(v, cut=1e-6):
    s, q = np.linalg.eigh(v)
    p = np.where(s > cut, 1 / np.sqrt(np.maximum(s, cut)), 0)
    return (q * p[..., None, :]) @ np.swapaxes(q, -1, -2)


@each
def test_against_eigh_in_float64(name, x64):
    v = gram(5, 5, (2,))
    found = jax.jit(ROOTS[name])(jnp.asarray(v, jnp.float64))
    np.testing.assert_allclose(found, inverse_root(v), rtol=0, atol=1e-9)


@each
@pytest.mark.parametrize("scale", [2.0**-100, 1.0, 3e30])
def test_any_scale_in_float32(name, scale):
    v = gram(6, 6)
    found = np.asarray(ROOTS[name](jnp.asarray(scale * v, jnp.float32)), np.float64)
    np.testing.assert_allclose(found * scale**0.5, inverse_root(v), atol=3e-3)


@each
@pytest.mark.parametrize("rank", [1, 3])
def test_without_full_rank_the_range_is_whitened(name, rank):
    v = gram(8, rank)
    z = np.asarray(ROOTS[name](jnp.asarray(v, jnp.float32)), np.float64)
    s = np.sort(np.linalg.eigvalsh(z @ v @ z.T))[::-1]
    np.testing.assert_allclose(s, [1.0] * rank + [0.0] * (8 - rank), atol=5e-3)


def test_a_hundred_stages_do_not_diverge_on_zero_eigenvalues():
    v = jnp.asarray(gram(8, 2), jnp.float32)
    stages = [*POLAR_EXPRESS_ROOT, *[POLAR_EXPRESS_ROOT[-1]] * 90]
    for root in (polar_express_root(stages), newton_schulz_root([(2, -1.5, 0.5)] * 99)):
        z = np.asarray(root(v), np.float64)
        np.testing.assert_allclose(np.linalg.norm(z @ v @ z.T, 2), 1, atol=1e-2)


@each
def test_zero_goes_to_zero_and_nan_stays_in_its_matrix(name):
    v = np.stack([np.zeros((3, 3)), gram(3, 3), np.full((3, 3), np.nan)])
    found = np.asarray(ROOTS[name](jnp.asarray(v, jnp.float32)))
    assert not found[0].any()
    np.testing.assert_allclose(found[1], inverse_root(v[1]), atol=1e-3)
    assert np.isnan(found[2]).all()


@each
def test_dtype_stays(name):
    v = jnp.asarray(gram(3, 3), jnp.bfloat16)
    assert ROOTS[name](v).dtype == jnp.bfloat16


def test_where_the_authors_epsilons_stand(x64):
    """In the norm alone; in the matrix and beside the norm; beside the root."""
    v, eps = gram(4, 4), 0.3
    eye, x = np.eye(4), jnp.asarray(v, jnp.float64)

    def stages(y, schedule):
        z = eye
        for a, b, c in schedule:
            w = z @ y
            p = b * w + c * w @ w
            y, z = a * y + y @ p, a * z + p @ z
        return z

    nu = 1.01 * np.linalg.norm(v + eps * eye)
    want = stages(v / nu, POLAR_EXPRESS_ROOT) / np.sqrt(nu)
    np.testing.assert_allclose(polar_express_root(eps=eps)(x), want, rtol=1e-10)

    nu, newton = np.linalg.norm(v), [(2, -1.5, 0.5)] * 4
    want = stages((v + eps * eye) / (nu + eps), newton) / np.sqrt(nu)
    np.testing.assert_allclose(newton_schulz_root(newton, eps=eps)(x), want, rtol=1e-10)

    s, q = np.linalg.eigh(v)
    want = (q / (np.sqrt(s) + eps)) @ q.T
    np.testing.assert_allclose(eigen_root(eps)(x), want, rtol=1e-10)


@pytest.mark.parametrize("make", [polar_express_root, newton_schulz_root])
def test_bad_input(make):
    for schedule in ([], [(1.5, -0.5)]):
        with pytest.raises(
            ValueError, match=r"_root: schedule .* usable\. Expected .*three.*\. Pass "
        ):
            make(schedule)
    with pytest.raises(ValueError, match=r"eps=-1 is out of range\. Expected .*\. Ch"):
        make(eps=-1)
    with pytest.raises(ValueError, match=r"eps=-1 is out of range\. Expected .*\. Ch"):
        eigen_root(-1)
