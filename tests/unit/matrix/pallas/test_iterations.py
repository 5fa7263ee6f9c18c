# SPDX-License-Identifier: Apache-2.0
"""Newton-Schulz with kernels for its symmetric products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import JORDAN, gram_newton_schulz, newton_schulz
from orthoptax.matrix.pallas import pallas_products


def lifted(x, schedule):
    """The iteration on the singular values, in float64."""
    u, s, v = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    s = s / np.linalg.norm(s)
    for a, b, c in schedule:
        s = a * s + b * s**3 + c * s**5
    return u * s @ v


@pytest.mark.parametrize("iteration", [newton_schulz, gram_newton_schulz])
def test_kernels_take_part(iteration, rng):
    x = jnp.asarray(rng.normal(size=(256, 384)), jnp.float32)
    polar = iteration(JORDAN[:2], products=pallas_products(interpret=True))
    np.testing.assert_allclose(polar(x), lifted(x, JORDAN[:2]), atol=2e-6)


@pytest.mark.parametrize("iteration", [newton_schulz, gram_newton_schulz])
def test_sums_are_made_where_products_are(iteration):
    x = jax.ShapeDtypeStruct((256, 384), jnp.float32)
    fused = pallas_products(interpret=True)._replace(commuting=None)  # fails if called
    assert jax.eval_shape(iteration(JORDAN, products=fused), x).shape == x.shape
    apart = pallas_products(interpret=True)._replace(combined=None)
    jax.eval_shape(iteration(JORDAN, products=apart), x)
