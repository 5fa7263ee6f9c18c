# SPDX-License-Identifier: Apache-2.0
"""The inverse Fisher matrix of a fixed window against the matrix itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    inverse_fisher_diagonal,
    inverse_fisher_of,
    inverse_fisher_product,
)

RNG = np.random.default_rng(0)
G, X = RNG.normal(size=(2, 4, 7)), RNG.normal(size=(2, 7))
INVERSE = np.linalg.inv(0.3 * np.eye(7) + np.swapaxes(G, 1, 2) @ G / 4)


def test_products_and_diagonal_of_each_block():
    with jax.enable_x64(True):
        fisher = jax.jit(inverse_fisher_of)(jnp.asarray(G), 0.3)
        product = inverse_fisher_product(fisher, jnp.asarray(X))
        diagonal = inverse_fisher_diagonal(fisher)
    want = np.einsum("bij,bj->bi", INVERSE, X)
    np.testing.assert_allclose(product, want, rtol=1e-12)
    want = np.diagonal(INVERSE, axis1=1, axis2=2)
    np.testing.assert_allclose(diagonal, want, rtol=1e-12)


def test_rows_of_zeros_add_nothing_but_count():
    g = np.concatenate([G[0], np.zeros((4, 7))])
    inverse = np.linalg.inv(0.3 * np.eye(7) + G[0].T @ G[0] / 8)
    fisher = inverse_fisher_of(jnp.asarray(g, jnp.float32), 0.3)
    product = inverse_fisher_product(fisher, jnp.asarray(X[0], jnp.float32))
    np.testing.assert_allclose(product, inverse @ X[0], rtol=1e-4)


def test_narrow_gradients_are_summed_wide():
    fisher = inverse_fisher_of(jnp.asarray(G[0], jnp.bfloat16), 0.3)
    assert {x.dtype for x in fisher} == {jnp.dtype("float32")}


def test_one_vector_is_refused():
    with pytest.raises(ValueError, match=r"shape \(7,\) are one vector\. Expected .*m"):
        inverse_fisher_of(jnp.ones(7))
