# SPDX-License-Identifier: Apache-2.0
"""Elementary symmetric polynomials, and the preconditioner that is made of them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import elementary_symmetric, precondition_with

RNG = np.random.default_rng(0)
VALUES = np.asarray([3.0, 2.0, 1.5, 0.5, 0.25])
Q = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
B = (Q * VALUES) @ Q.T
SUMS = np.asarray([np.sum(VALUES**j) for j in range(1, 6)])
X = RNG.normal(size=5)


def products(values, k):
    """The sum of all products of k of the values."""
    return sum(math.prod(c) for c in itertools.combinations(values, k))


def test_newtons_identities():
    with jax.enable_x64(True):
        e = elementary_symmetric(jnp.asarray(SUMS))
    np.testing.assert_allclose(e, [products(VALUES, k) for k in range(6)], rtol=1e-12)


@pytest.mark.parametrize("degree", range(5))
def test_eigenvalues_are_products_of_the_others(degree):
    others = [np.delete(VALUES, i) for i in range(5)]
    want = (Q * [products(o, degree) for o in others]) @ Q.T @ X
    with jax.enable_x64(True):
        b, sums = jnp.asarray(B), jnp.asarray(SUMS[:degree])
        got = precondition_with(lambda x: b @ x, sums, jnp.asarray(X))
    np.testing.assert_allclose(got, want, rtol=1e-11)


def test_the_last_degree_is_the_determinant_times_the_inverse():
    with jax.enable_x64(True):
        b = jnp.asarray(B)
        got = precondition_with(lambda x: b @ x, jnp.asarray(SUMS[:4]), jnp.asarray(X))
    np.testing.assert_allclose(got, math.prod(VALUES) * np.linalg.solve(B, X))


def test_what_is_no_vector_or_function_is_refused():
    with pytest.raises(ValueError, match="are no vector"):
        precondition_with(lambda x: x, jnp.ones((2, 2)), jnp.ones(2))
    with pytest.raises(TypeError, match="matvec=3 is not a function"):
        precondition_with(3, jnp.ones(2), jnp.ones(2))
