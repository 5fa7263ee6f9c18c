# SPDX-License-Identifier: Apache-2.0
"""The state of every optimizer is as large as its docstring says."""

import math

import jax
import jax.numpy as jnp
import pytest

from orthoptax import optimizers
from orthoptax.train.catalogue import entry, state_numbers

SHAPES = ((6, 10), (10, 6), (8, 8), (1, 5), (48, 16))


@pytest.mark.parametrize("name", optimizers.__all__)
def test_numbers_a_matrix(name):
    for m, n in SHAPES:
        words = {
            "m": m,
            "n": n,
            "r": min(m, n),
            "min": min,
            "max": max,
            "ceil": math.ceil,
        }
        formula = eval(entry(name).memory, {"__builtins__": {}}, words)
        assert state_numbers(name, m, n) == formula, (m, n)


@pytest.mark.parametrize("name", optimizers.__all__)
def test_a_stack_holds_as_much_as_its_matrices(name):
    one = {"dense": {"kernel": jax.ShapeDtypeStruct((6, 10), jnp.float32)}}
    stack = {"blocks": {"kernel": jax.ShapeDtypeStruct((3, 6, 10), jnp.float32)}}
    of_tree = held(name, {})  # numbers that all matrices share
    assert held(name, stack) - of_tree == 3 * (held(name, one) - of_tree)


def held(name, tree):
    """Numbers in the state of a tree."""
    state = jax.eval_shape(getattr(optimizers, name)(0.1).init, tree)
    inexact = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    return sum(x.size for x in jax.tree.leaves(state) if inexact(x))
