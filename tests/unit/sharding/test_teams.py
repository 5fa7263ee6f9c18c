# SPDX-License-Identifier: Apache-2.0
"""Who works together on what, and fractions by NumPy's slices."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.layout.links import Leaf
from orthoptax.layout.view import MatrixView
from orthoptax.sharding.assign import Job
from orthoptax.sharding.teams import cut_units, deal, fraction, join_units, joint_units
from orthoptax.sharding.units import Field, Kind, StateKey

SIZES = {"a": 2, "b": 3}


def ids(shares, kind):
    return [i for share in shares for i in share.get(kind, ())]


@pytest.mark.parametrize("counts", [(12, 0), (11, 3), (5, 9), (1, 1), (16, 8), (27, 2)])
@pytest.mark.parametrize("team", [2, 4, 8])
def test_every_unit_is_worked_on_once(counts, team):
    jobs = [Job(k, n, 4.0 - k, 3.0 - k) for k, n in enumerate(counts)]
    dealt = deal(jobs, 8, team, [True, True])
    assert (len(dealt.shares), len(dealt.joint)) == (8, 8 // team)
    for kind, count in enumerate(counts):
        found = ids(dealt.shares, kind) + ids(dealt.joint, kind)
        assert sorted(found) == list(range(count))


@pytest.mark.parametrize(
    ("count", "team", "alone", "together"),
    [  # of the busiest of eight owners
        (12, 2, 1, 1),
        (11, 2, 1, 1),  # a team has nothing to do: 1.5, where whole ones would be 2
        (16, 4, 2, 0),
        (1, 8, 0, 1),
        (5, 2, 0, 2),
        (3, 4, 0, 2),
    ],
)
def test_the_busiest(count, team, alone, together):
    dealt = deal([Job(0, count, 1.0, 1.0)], 8, team, [True])
    assert max(len(share.get(0, ())) for share in dealt.shares) == alone
    assert joint_units(dealt.joint).get(0, 0) == together


def test_what_would_keep_all_teams_waiting_goes_whole():
    """One each of four shapes: half of each would be two for everyone."""
    dealt = deal([Job(k, 1, 1.0, 1.0) for k in range(4)], 8, 2, [True] * 4)
    assert joint_units(dealt.joint) == {}
    assert max(len(share) for share in dealt.shares) == 1


def test_what_teams_cannot_work_on_goes_whole():
    dealt = deal([Job(0, 3, 1.0, 1.0)], 8, 2, [False])
    assert ids(dealt.joint, 0) == []
    assert sorted(ids(dealt.shares, 0)) == [0, 1, 2]


def kind_of(shape, cuts, view, states=()):
    """A unit of a leaf of this shape, with states {axes lengths: cuts}."""
    fields = [Field("updates", shape, cuts, jnp.dtype("float32"), ())]
    for i, (form, cut) in enumerate(states):
        key = StateKey(0, (), (i,))
        fields.append(Field(key, form, cut, jnp.dtype("float32"), ()))
    fields = tuple(fields)
    return Kind("w", Leaf(view, shape), 1, fields, fields, ("a", "b"), 12.0)


PLAIN = MatrixView(rows=(2,), cols=(1,))  # of a stack of (in, out) kernels
IN, OUT = (("a",), ("b",)), (("b",), ("a",))
FITS = {  # shape, cuts, view, team: axis, or None; rows
    "columns": ((8, 6), IN, PLAIN, 4, 0, False),
    "rows": ((6, 8), (("b",), ("a",)), PLAIN, 4, 1, True),
    "too short a part": ((8, 6), IN, PLAIN, 8, None, None),
    "square, by columns": ((24, 24), IN, PLAIN, 4, 0, False),
    "square, by rows": ((18, 18), IN, PLAIN, 2, 1, True),
    "second axis of a side": (
        (2, 3, 12, 6), ((), (), ("a",), ()), MatrixView((4,), (1, 2, 3)), 6, 2, False,
    ),
    "wide blocks": ((12, 8), ((), ()), MatrixView((2,), (1,), (4, 4)), 4, 0, False),
    "tall blocks": ((4, 16), ((), ()), MatrixView((2,), (1,), (8, 8)), 2, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_the_axis_of_fractions(name):
    shape, cuts, view, team, axis, rows = FITS[name]
    found = fraction(kind_of(shape, cuts, view), team, SIZES)
    seen = (None, None) if found is None else (found.axes["updates"], found.rows)
    assert seen == (axis, rows)


def test_states_go_with_their_side():
    """Of a (6, 8) matrix, columns over a: along rows, along columns, and of it all."""
    along = [((6, 1), (("b",), ())), ((1, 8), ((), ("a",))), ((1, 1), ((), ()))]
    kind = kind_of((8, 6), IN, PLAIN, along)
    found = fraction(kind, 4, SIZES)
    assert found is not None
    assert [f.shape for f in found.kind.inputs] == [(2, 6), (6, 1), (1, 2), (1, 1)]
    assert found.axes == {"updates": 0, kind.inputs[2].key: 1}
    assert found.kind.flops == 3.0


def test_a_state_that_lies_otherwise_keeps_the_matrix_whole():
    kind = kind_of((8, 6), IN, PLAIN, [((1, 8), ((), ()))])
    assert fraction(kind, 4, SIZES) is None


@pytest.mark.parametrize("axis", [0, 1, None])
def test_fractions_are_slices(axis, rng):
    of = Field("updates", (8, 12), (("a",), ("b",)), jnp.dtype("float32"), ())
    x = rng.normal(size=(5, 2, 4, 4)).astype(np.float32)  # units, grain, here
    cut = cut_units(jnp.asarray(x.reshape(5, -1)), of, axis, 2, 4, SIZES)
    for member in range(4):
        ends = slice(member, member + 1)
        take = {0: x[:, :, ends], 1: x[..., ends], None: x}[axis]
        np.testing.assert_array_equal(cut[member], take.reshape(5, -1))
    back = join_units(cut, of, axis, 2, 4, SIZES)
    np.testing.assert_array_equal(back, x.reshape(5, -1))
