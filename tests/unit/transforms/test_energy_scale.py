# SPDX-License-Identifier: Apache-2.0
"""AuON's scale against its formula in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.transforms import energy_scale

U = np.random.default_rng(0).normal(size=(3, 2, 4))


def formula(u, gamma, *, normalize=False, eps=0.0, rms_eps=0.0, axes=(-2, -1)):
    x = u / (np.sqrt(np.sum(u * u, axis=axes, keepdims=True)) + eps)
    r = np.sqrt(np.mean(np.cosh(gamma * x) ** 2, axis=axes, keepdims=True))
    return (x if normalize else u) / (r + rms_eps)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("options", [{}, {"eps": 0.5, "rms_eps": 0.25}, {"axes": None}])
def test_against_the_formula(normalize, options):
    with jax.enable_x64(True):
        tx = energy_scale(2.5, normalize=normalize, **options)
        out = jax.jit(tx.update)({"w": jnp.asarray(U)}, tx.init({}))[0]["w"]
    want = formula(U, 2.5, normalize=normalize, **options)
    np.testing.assert_allclose(out, want, rtol=1e-12)


def test_whole_leaves_may_be_vectors_and_scalars():
    tx = energy_scale(axes=None)
    u = {"vector": jnp.asarray([3.0, -4.0]), "scalar": jnp.asarray(-2.0)}
    out = jax.jit(tx.update)(u, tx.init({}))[0]
    want = formula(np.asarray([3.0, -4.0]), 1.5, axes=None)
    np.testing.assert_allclose(out["vector"], want, rtol=1e-6)
    np.testing.assert_allclose(out["scalar"], -2 / np.cosh(1.5), rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(normalize, scale):
    tx = energy_scale(normalize=normalize)
    u = {"w": jnp.asarray(U * scale, jnp.float32)}
    out = jax.jit(tx.update)(u, tx.init({}))[0]["w"]
    want = formula(U * scale, 1.5, normalize=normalize)
    np.testing.assert_allclose(out, want, rtol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_zero_stays_zero_beside_others(normalize):
    tx = energy_scale(normalize=normalize)
    u = jnp.asarray(U, jnp.float32).at[1].set(0)
    out = jax.jit(tx.update)({"w": u}, tx.init({}))[0]["w"]
    assert not np.any(out[1])
    assert np.all(np.isfinite(out))
    assert np.all(np.abs(out[0]) > 0)


@pytest.mark.parametrize("name", ["gamma", "eps", "rms_eps"])
def test_bad_numbers(name):
    match = rf"energy_scale: {name}=-1.0 is out of range\. Expected .*\. Change"
    with pytest.raises(ValueError, match=match):
        energy_scale(**{name: -1.0})


def test_a_vector_is_refused_where_matrices_are_expected():
    tx = energy_scale()
    match = r"energy_scale: leaf 'b' of shape \(3,\) .*\. Expected .*\. Wrap"
    with pytest.raises(ValueError, match=match):
        tx.update({"b": jnp.ones(3)}, tx.init({}))
