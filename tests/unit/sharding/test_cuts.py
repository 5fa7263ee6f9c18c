# SPDX-License-Identifier: Apache-2.0
import jax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax.layout.links import Leaf
from orthoptax.layout.view import MatrixView
from orthoptax.sharding.cuts import cuts_of, local_shape, parts_of, spec_of, state_cuts

SIZES = {"a": 4, "b": 2, "one": 1}
SHAPE = (8, 16)


@pytest.mark.parametrize(
    ("spec", "cuts"),
    [
        (None, ((), ())),
        (P(), ((), ())),
        (P("a"), (("a",), ())),
        (P(None, "b"), ((), ("b",))),
        (P("a", "b"), (("a",), ("b",))),
        (P(("a", "b")), (("a", "b"), ())),
        (P(("b", "a")), (("b", "a"), ())),  # outermost first
        (P("one", ("b",)), ((), ("b",))),  # one device cuts nothing
    ],
)
def test_cuts_of(spec, cuts):
    assert cuts_of(spec, SHAPE, SIZES, "w") == cuts


def test_cuts_of_a_sharding():
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    found = cuts_of(NamedSharding(mesh, P("b")), SHAPE, SIZES, "w")
    assert found == (("b",), ())


@pytest.mark.parametrize(
    "spec", [P(), P("a"), P(None, "b"), P(("b", "a"), None, "one")]
)
def test_spec_of_is_the_inverse(spec):
    every = {**SIZES, "one": 3}
    cuts = cuts_of(spec, (24, 24, 24), every, "w")
    assert spec_of(cuts) == spec
    assert cuts_of(spec_of(cuts), (24, 24, 24), every, "w") == cuts


def test_parts():
    assert parts_of((), SIZES) == 1
    assert parts_of(("a", "b"), SIZES) == 8
    assert local_shape(SHAPE, (("b",), ("a",)), SIZES) == (4, 4)


DENSE = MatrixView(rows=(-1,), cols=(-2,))  # kernel (in, out)
HEADS = MatrixView(rows=(1, 2), cols=(0,))  # kernel (d, heads, size)
STATES = {  # (leaf, view, its cuts, state): (shape of the matrix, cuts of the state)
    "a number a row": (
        (16, 8), DENSE, (("a",), ("b",)), (8, 1), (8, 16), (("b",), ()),
    ),
    "a number a column": (
        (16, 8), DENSE, (("a",), ("b",)), (1, 16), (8, 16), ((), ("a",)),
    ),
    "a number a row, without the second axis": (
        (16, 8), DENSE, (("a",), ("b",)), (8,), (8, 16), (("b",),),
    ),
    "a number a matrix": (
        (16, 8), DENSE, (("a",), ("b",)), (), (8, 16), (),
    ),
    "like the matrix": (
        (16, 8), DENSE, (("a",), ("b",)), (8, 16), (8, 16), (("b",), ("a",)),
    ),
    "square in the rows": (
        (16, 8), DENSE, (("a",), ("b",)), (8, 8), (8, 16), (("b",), ()),
    ),
    "a stack": (
        (4, 16, 8), DENSE, (("a",), (), ("b",)), (4, 8, 1), (4, 8, 16),
        (("a",), ("b",), ()),
    ),
    "a stack, a number a matrix": (
        (4, 16, 8), DENSE, (("a",), (), ("b",)), (4,), (4, 8, 16), (("a",),),
    ),
    "another length": (
        (16, 8), DENSE, (("a",), ("b",)), (5, 1), (8, 16), ((), ()),
    ),
    "a block of fewer rows than devices": (
        (16, 12), MatrixView(rows=(1,), cols=(0,), blocks=(9, 3)), ((), ("a",)),
        (3, 1), (3, 16), ((), ()),
    ),
    "merged rows cut on the outer axis": (
        (16, 4, 8), HEADS, ((), ("a",), ()), (32, 1), (32, 16), (("a",), ()),
    ),
    "merged rows cut on the inner axis": (
        (16, 4, 8), HEADS, ((), (), ("a",)), (32, 1), (32, 16), ((), ()),
    ),
    "merged rows cut on both": (
        (16, 4, 8), HEADS, ((), ("a",), ("b",)), (32, 1), (32, 16), ((), ()),
    ),
    "no batch axes of its own": (
        (4, 16, 8), DENSE, (("a",), (), ()), (8,), (4, 8, 16), ((),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_state_cuts(case):
    shape, view, cuts, state, matrix, expected = STATES[case]
    assert view.shapes(shape)[-1] == matrix
    assert state_cuts(state, matrix, Leaf(view, shape), cuts, SIZES) == expected
