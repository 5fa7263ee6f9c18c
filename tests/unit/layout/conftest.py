# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import pytest

from orthoptax.layout.describe import describe


@pytest.fixture
def route():
    """route(params, layout): {leaf name: its matrices as text, or its role}."""

    def run(params, layout):
        return {
            row.name: row.cells[3] if row.view is not None else row.role
            for row in describe(params, layout).rows
        }

    return run


@pytest.fixture
def leaf():
    """leaf(4, 8): the shape of a parameter."""
    return lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.fixture
def proof_tree(leaf):
    return {
        "embed": {"embedding": leaf(50, 8)},
        "dense": {"kernel": leaf(8, 16), "bias": leaf(16)},
        "blocks": {"kernel": leaf(4, 8, 16), "bias": leaf(4, 16)},
        "head": {"kernel": leaf(16, 50)},
    }
