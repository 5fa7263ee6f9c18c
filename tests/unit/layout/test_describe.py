# SPDX-License-Identifier: Apache-2.0
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from orthoptax.layout.describe import describe
from orthoptax.layout.rules import rules
from orthoptax.layout.tables import equinox, flax
from orthoptax.layout.view import MatrixView


def test_rows_and_totals_of_the_proof_tree(proof_tree):
    table = describe(proof_tree)
    rows = {row.name: row for row in table.rows}
    assert list(rows) == [
        "blocks/bias", "blocks/kernel", "dense/bias", "dense/kernel",
        "embed/embedding", "head/kernel",
    ]  # fmt: skip
    assert rows["blocks/kernel"].shape == (4, 8, 16)
    assert rows["blocks/kernel"].matrices == ((4, 16, 8),)
    assert rows["blocks/kernel"].role == "dense, scanned"
    assert rows["blocks/kernel"].count == 512
    assert rows["dense/kernel"].view == MatrixView((1,), (0,))
    assert rows["head/kernel"].view is None
    assert rows["head/kernel"].role == "head"
    assert (table.matrices, table.matrix_leaves, table.matrix_params) == (5, 2, 640)
    assert (table.rest_leaves, table.rest_params) == (4, 64 + 16 + 400 + 800)


def test_text_has_a_row_a_leaf_in_aligned_columns(proof_tree):
    lines = str(describe(proof_tree)).splitlines()
    assert len(lines) == 1 + 6 + 1
    assert "4 x (16, 8)" in lines[2]
    starts = {line.index(cell) for line, cell in zip(
        lines[:3], ("shape", "(4, 16)", "(4, 8, 16)"), strict=True)}  # fmt: skip
    assert len(starts) == 1
    assert len({len(line) for line in lines[:7]}) == 1
    assert "5 in 2 of 6 leaves, 640 of 1,920 parameters" in lines[-1]
    assert "4 of 6 leaves, 1,280 of 1,920" in lines[-1]


def test_a_fused_leaf_shows_its_blocks(leaf):
    row = describe({"qkv": {"kernel": leaf(2, 6, 8)}},
                   flax(scan_axis=0, fused={"qkv": (4, 2, 2)})).rows[0]  # fmt: skip
    assert row.matrices == ((2, 4, 6), (2, 2, 6), (2, 2, 6))
    assert row.cells[3] == "2 x (4, 6), 2 x (2, 6), 2 x (2, 6)"


def test_nnx_state_and_partitioned_boxes():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    boxed = {"kernel": nn.Partitioned(jnp.ones((2, 3)), ("in", "out"))}
    assert [r.matrices for r in describe(state).rows] == [(), ((3, 2),)]
    assert describe(boxed).rows[0].matrices == ((3, 2),)


def test_an_equinox_model_must_be_filtered():
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    arrays = eqx.filter(model, eqx.is_inexact_array)
    assert describe(arrays, equinox()).matrices == 2
    with pytest.raises(
        TypeError, match=r"describe: leaf .*Expected arrays only.*is_inexact_array"
    ):
        describe(model, equinox())


def test_any_callable_is_a_layout(leaf):
    row = describe({"w": leaf(2, 3)}, lambda name, x: MatrixView((0,), (1,))).rows[0]
    assert row.role == "matrix"
    assert row.matrices == ((2, 3),)


def test_roles_come_from_the_base_where_it_decides(leaf):
    layout = rules(("^mine$", None), base=flax())
    rows = describe({"mine": leaf(2, 3), "kernel": leaf(2, 3)}, layout).rows
    assert [r.role for r in rows] == ["dense", "rest"]


@pytest.mark.parametrize("empty", [{}, None, [], {"a": {}}])
def test_an_empty_tree_is_refused(empty):
    with pytest.raises(
        ValueError, match=r"describe: the tree is empty\. Expected .*Pass"
    ):
        describe(empty)


def test_integer_leaves_are_refused():
    with pytest.raises(TypeError, match=r"'n' .*int32\. Expected a floating.*masked"):
        describe({"n": jnp.zeros((2, 2), jnp.int32)})


def test_a_layout_must_be_callable(leaf):
    with pytest.raises(TypeError, match=r"layout='flax' is not a function.*flax\(\)"):
        describe({"w": leaf(2, 3)}, "flax")
