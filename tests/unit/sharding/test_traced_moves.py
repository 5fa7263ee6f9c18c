# SPDX-License-Identifier: Apache-2.0
"""Collectives of a trace: their sizes, groups, and which a compiler merges."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from orthoptax.sharding.planning.traced_moves import traced_on_parts

SIZES = {"a": 4, "b": 2}
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
X = jax.ShapeDtypeStruct((8, 3), jnp.float32)


def over_a(x):
    return lax.psum(x, "a")


CASES = {  # function: [(kind, result bytes, group)]
    "sum": (over_a, [("all-reduce", 96, 4)]),
    "in pairs": (
        lambda x: lax.pmax(x, ("a", "b"), axis_index_groups=PAIRS),
        [("all-reduce", 96, 2)],
    ),
    "gathered": (
        lambda x: lax.all_gather(x, ("a", "b")),
        [("all-gather", 8 * 96, 8)],
    ),
    "scattered": (
        lambda x: lax.psum_scatter(x, "a", tiled=True),
        [("reduce-scatter", 24, 4)],
    ),
    "each stage": (
        lambda x: lax.scan(lambda x, _: (over_a(x), None), x, length=3)[0],
        [("all-reduce", 96, 4)] * 3,
    ),
    "two at once": (lambda x: over_a(x) + over_a(2 * x), [("all-reduce", 192, 4)]),
    "one after the other": (lambda x: over_a(over_a(x)), [("all-reduce", 96, 4)] * 2),
    "unlike": (
        lambda x: over_a(x) + lax.pmax(x, "a") + lax.psum(x, "b"),
        [("all-reduce", 96, 4)] * 2 + [("all-reduce", 96, 2)],
    ),
    "called": (lambda x: jax.jit(over_a)(over_a(x)), [("all-reduce", 96, 4)] * 2),
}


@pytest.mark.parametrize("name", CASES)
def test_moves(name):
    function, expected = CASES[name]
    _, found = traced_on_parts(function, SIZES, X)
    assert [(c.kind, c.result_bytes, c.group_size) for c in found] == expected


def test_operations_are_one_devices():
    flops, _ = traced_on_parts(lambda x: over_a(x @ x.T), SIZES, X)
    assert dict(flops) == {"float32": 2 * 8 * 8 * 3}
