# SPDX-License-Identifier: Apache-2.0
"""Leaves that are more than a matrix, and numbers of leaves that devices do not divide.

Each tree takes two sharded steps of NorMuon, compared with the local ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from orthoptax import normuon
from orthoptax.layout import flax
from orthoptax.sharding import whole_matrices
from orthoptax.sharding.compiled.counting import count
from tests import zoo
from tests.sharding import steps
from tests.sharding.steps import OVER_8, RATE


def kernel(shape, spec, module="dense"):
    """A tree of one kernel, and its spec."""
    return {module: {"kernel": shape}}, {module: {"kernel": spec}}


def together(*pairs):
    """Trees and their specs, merged."""
    merge = lambda trees: {k: v for tree in trees for k, v in tree.items()}
    return tuple(map(merge, zip(*pairs, strict=True)))


def many(number, shape, spec):
    """So many equal kernels."""
    return together(*(kernel(shape, spec, f"dense_{i}") for i in range(number)))


TREES = {
    "a stack cut on layers": kernel((16, 8, 16), P(OVER_8), "layers"),
    "a stack cut on columns": kernel((6, 8, 16), P(None, OVER_8), "layers"),
    "a stack cut on layers and rows": kernel((4, 8, 16), P("a", None, "b"), "layers"),
    "a stack cut on layers by one axis": kernel((4, 8, 16), P("b"), "layers"),
    "a convolution cut on outputs": kernel((3, 3, 4, 16), P(*[None] * 3, "a"), "conv"),
    "a convolution cut on inputs": kernel((3, 3, 4, 16), P(None, None, "a"), "conv"),
    "queries cut on heads": kernel((16, 4, 8), P("b", "a"), "query"),
    "queries cut within heads": kernel((16, 4, 8), P(None, "b", "a"), "query"),
    "attention outputs cut on heads": kernel((4, 8, 16), P("a", None, "b"), "out"),
    "a lone matrix": kernel((16, 24), P("a", "b")),
    "a lone replicated matrix": kernel((16, 24), P()),
    "16 equal": many(16, (8, 16), P("a", "b")),
    "11 equal": many(11, (8, 16), P(("b", "a"))),
    "11 replicated": many(11, (8, 16), P()),
    "rows of odd lengths": together(
        kernel((8, 9), P(OVER_8), "one"), kernel((24, 15), P("b"), "two")
    ),
}
FUSED = {
    # 24, 8 and 8 rows over eight devices of five rows each, or four of ten
    "over both axes": P(None, OVER_8),
    "over one": P("b", "a"),
}


FAST = {"a stack cut on layers and rows", "queries cut on heads", "a lone matrix"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in TREES]
)
def test_leaf(name):
    shapes, specs = TREES[name]
    updates, state, cut = steps.sharded("normuon", shapes, specs)
    steps.assert_equal((updates, state), steps.local("normuon", shapes))
    steps.assert_cut(updates[-1], cut)
    steps.assert_cut(state.matrix[0].momentum, cut)


@pytest.mark.parametrize(
    "name", ["over one", pytest.param("over both axes", marks=pytest.mark.slow)]
)
def test_blocks_of_a_fused_projection(name):
    """Blocks that do not end where a device's part does."""
    shapes, specs = kernel((16, 40), FUSED[name], "qkv")
    layout = flax(fused={"qkv": (24, 8, 8)})
    updates, state, cut = steps.sharded(
        "normuon", shapes, specs, arguments={"layout": layout}
    )
    theirs = steps.local("normuon", shapes, layout=layout)
    steps.assert_equal((updates, state), theirs)
    assert len(state.matrix[1].links[1].second_moment) == 3  # one a block
    steps.assert_cut(updates[-1], cut)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
)
def test_dtype(dtype):
    shapes, specs = many(3, (8, 16), P("a", "b"))
    updates, state, cut = steps.sharded("normuon", shapes, specs, dtype)
    steps.assert_equal((updates, state), steps.local("normuon", shapes, dtype))
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    steps.assert_cut(updates[-1], cut)


def one_step(params, specs):
    """(sharded, local) results of a step along the parameters."""
    where = steps.mesh()
    tx = steps.made("normuon", place=whole_matrices(specs, mesh=where))
    put = jax.device_put(params, steps.shardings(where, specs))
    ours = steps.take(tx, put, [put], start=steps.spread(tx.init(put), where))
    return jax.device_get((ours, steps.take(steps.made("normuon"), params, [params])))


def test_complex_numbers():
    shapes, specs = many(3, (8, 16), P("a", "b"))
    params = jax.tree.map(jax.lax.complex, zoo.tree(0, shapes), zoo.tree(1, shapes))
    both = lambda tree: jax.tree.map(lambda x: np.stack([x.real, x.imag]), tree)
    ours, theirs = map(both, one_step(params, specs))
    steps.assert_equal(ours, theirs)


def test_dtypes_side_by_side():
    """What travels together is of two dtypes: words of the shorter."""
    shapes, specs = many(4, (8, 16), P("a", "b"))
    params = zoo.tree(0, shapes)
    params["dense_1"] = zoo.tree(0, shapes, jnp.bfloat16)["dense_1"]
    ours, theirs = one_step(params, specs)
    steps.assert_equal(ours, theirs)


def test_stacks_cut_on_their_layers_move_nothing():
    shapes, specs = kernel((16, 8, 16), P(OVER_8), "layers")
    where = steps.mesh()
    params = jax.device_put(zoo.tree(0, shapes), steps.shardings(where, specs))
    tx = normuon(RATE, place=whole_matrices(specs, mesh=where))
    compiled = steps.jit(tx.update).lower(params, tx.init(params), params).compile()
    assert count(compiled).collectives == ()
