# SPDX-License-Identifier: Apache-2.0
"""Directions without a scale get that of what they were made from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.matrix import svd
from orthoptax.transforms import (
    momentum,
    orthogonalize,
    scale_by_dual_norm,
    scale_by_input_norm,
)

RNG = np.random.default_rng(0)
U = RNG.normal(size=(2, 4, 3))


def run(tx, *inputs, dtype=jnp.float32):
    w = {"w": jnp.asarray(inputs[0], dtype)}
    state = tx.init(w)
    for u in inputs:
        w, state = tx.update({"w": jnp.asarray(u, dtype)}, state)
    return np.asarray(w["w"], np.float64)


def polar(x):
    p, s, q = np.linalg.svd(x, full_matrices=False)
    return p @ q, s.sum(-1)[..., None, None]


def test_the_dual_norm_of_a_polar_factor_is_nuclear(x64):
    o, nuclear = polar(U)
    found = run(scale_by_dual_norm(orthogonalize(svd())), U, dtype=jnp.float64)
    np.testing.assert_allclose(found, nuclear * o, rtol=1e-10)


def test_the_dual_norm_of_a_sign_is_the_sum(x64):
    found = run(scale_by_dual_norm(optax.scale_by_sign()), U, dtype=jnp.float64)
    sums = np.abs(U).sum((-2, -1), keepdims=True)
    np.testing.assert_allclose(found, sums * np.sign(U), rtol=1e-12)


def test_then_stands_between_the_direction_and_the_factor(x64):
    """PolarGrad with the polar factor first: the factor is that of G, not of M."""
    first, second = U, RNG.normal(size=U.shape)
    link = momentum(0.9, nesterov=False)
    tx = scale_by_dual_norm(orthogonalize(svd()), then=link)
    (o1, _), (o2, nuclear) = polar(first), polar(second)
    want = nuclear * (0.9 * 0.1 * o1 + 0.1 * o2)
    found = run(tx, first, second, dtype=jnp.float64)
    np.testing.assert_allclose(found, want, rtol=1e-9)


@pytest.mark.parametrize("make", [scale_by_dual_norm, scale_by_input_norm])
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_homogeneous_of_degree_one(make, scale):
    np.testing.assert_array_equal(run(make(), scale * U), scale * run(make(), U))


def test_each_matrix_gets_its_own_norm():
    sizes = np.asarray([1e-25, 1e25])[:, None, None]
    found = run(scale_by_input_norm(optax.scale_by_sign()), sizes * U)
    want = np.linalg.norm(sizes * U, axis=(-2, -1), keepdims=True) * np.sign(U)
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("make", [scale_by_dual_norm, scale_by_input_norm])
def test_bad_input(make):
    for call in (make().init, lambda u: make().update(u, make().init({}))):
        with pytest.raises(
            ValueError, match=rf"{make.__name__}: leaf 'w' .*\. Expected .*\. Wrap "
        ):
            call({"w": jnp.ones(3)})


def test_zero_is_zero():
    for make in (scale_by_dual_norm, scale_by_input_norm):
        assert not run(make(), 0 * U).any()


def test_sixteen_bits_are_summed_wide():
    u = jnp.full((1, 1000), 1 / 3, jnp.bfloat16)
    tx = scale_by_dual_norm(optax.scale_by_sign())
    found = jax.jit(tx.update)({"w": u}, tx.init({"w": u}))[0]["w"]
    assert found.dtype == jnp.bfloat16
    assert float(found[0, 0]) == pytest.approx(1000 * float(u[0, 0]), rel=5e-3)
