# SPDX-License-Identifier: Apache-2.0
"""Grouping changes what is compiled, never a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.layout import map_stacks

RNG = np.random.default_rng(0)
SHAPES = [(3, 4), (2, 3, 4), (4, 3), (3, 4), (2, 2, 3, 4), (0, 3, 4), (1, 4, 3)]
TREE = {
    f"{i}": jnp.asarray(RNG.normal(size=shape), jnp.float32)
    for i, shape in enumerate(SHAPES)
} | {"half": jnp.ones((3, 4), jnp.bfloat16)}


def row_share(x):
    """Depends on the whole matrix, so that a mix-up of any two shows."""
    return (
        x
        * jnp.arange(1.0, 1 + x.shape[-1]).astype(x.dtype)
        / (1 + jnp.sum(x * x, axis=(-2, -1), keepdims=True))
    )


@pytest.mark.parametrize("limits", [{}, {"max_leaves": 1}, {"max_leaves": 2},
                                    {"max_bytes": 1}, {"max_bytes": 100}])  # fmt: skip
def test_equals_leaf_by_leaf(limits):
    got = jax.jit(lambda t: map_stacks(row_share, t, **limits))(TREE)
    assert jax.tree.structure(got) == jax.tree.structure(TREE)
    for name, x in TREE.items():
        assert got[name].dtype == x.dtype
        want = np.asarray(row_share(x), np.float64)
        np.testing.assert_allclose(np.float64(got[name]), want, rtol=1e-2 if name ==
                                   "half" else 1e-6)  # fmt: skip


def calls(**limits):
    """How many stacks the function is compiled for."""
    shapes = []

    def fn(x):
        shapes.append(x.shape)
        return x

    leaves = {k: v for k, v in TREE.items() if v.size and v.ndim == 2}
    jax.eval_shape(lambda t: map_stacks(fn, t, **limits), leaves)
    return sorted({s[-2:] for s in shapes}), len(shapes)


def test_one_program_a_shape_and_dtype():
    # (3, 4) twice in float32; (4, 3) and the bfloat16 (3, 4) stand alone
    shapes, number = calls(max_leaves=1)
    assert shapes == [(3, 4), (4, 3)]
    assert number == 4
    _, grouped = calls()
    assert grouped == 2 + 2  # a stack is traced for CPU and for other platforms


def test_stacks_are_bounded_by_leaves_and_by_bytes():
    leaves = {i: jnp.ones((3, 4)) for i in range(8)}  # 48 bytes each
    whiles = lambda **k: (
        jax.jit(lambda t: map_stacks(row_share, t, **k))
        .lower(leaves)
        .as_text()
        .count("stablehlo.while")
    )
    assert whiles() == 1
    assert whiles(max_leaves=4) == 2
    assert whiles(max_leaves=2) == 4
    assert whiles(max_bytes=48 * 3) == 3


def test_on_other_platforms_a_stack_is_one_batch_up_to_the_byte_bound():
    leaves = {i: jnp.ones((3, 4)) for i in range(8)}

    def text(**limits):
        fn = jax.jit(lambda t: map_stacks(row_share, t, **limits))
        return fn.trace(leaves).lower(lowering_platforms=("cuda",)).as_text()

    assert text().count("stablehlo.while") == 0
    one_leaf = {0: jnp.ones((8, 3, 4))}
    fn = jax.jit(lambda t: map_stacks(row_share, t, max_bytes=48 * 4))
    lowered = fn.trace(one_leaf).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("stablehlo.while") == 1
    assert "tensor<4x3x4xf32>" in lowered


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (3, 4, 0), (0, 4, 4)])
def test_leaves_without_entries_come_back(shape):
    tree = {"none": jnp.zeros(shape), "some": jnp.ones((4, 4))}
    out = map_stacks(lambda x: 2 * x, tree)
    assert out["none"].shape == shape
    np.testing.assert_array_equal(out["some"], 2 * np.ones((4, 4)))
