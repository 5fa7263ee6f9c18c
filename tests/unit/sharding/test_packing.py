# SPDX-License-Identifier: Apache-2.0
"""Arrays to rows of words and back: digits untouched, order by NumPy's slices."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.layout.links import Leaf
from orthoptax.layout.view import MatrixView
from orthoptax.sharding.exchange import Wire, plan_exchange
from orthoptax.sharding.packing import (
    assemble,
    disassemble,
    from_rows,
    from_units,
    to_rows,
    to_units,
)
from orthoptax.sharding.units import Field, Kind, LeafUnits

SIZES = {"a": 2, "b": 3}
WIRES = [  # dtype of the field, words
    ("float32", "float32"), ("float32", "uint32"), ("float32", "uint16"),
    ("bfloat16", "uint16"), ("float16", "uint16"), ("float64", "uint32"),
    ("float64", "float64"), ("complex64", "float32"), ("complex64", "uint16"),
    ("complex128", "uint32"), ("int32", "uint32"), ("uint8", "uint8"),
]  # fmt: skip


def field(shape, cuts=None, dtype="float32", key="updates", batch=()):
    return Field(key, shape, cuts or ((),) * len(shape), jnp.dtype(dtype), batch)


def numbers(rng, shape, dtype):
    """Gaussian numbers; -0, infinity and the least normal one among them."""
    x = rng.normal(size=shape) * 100
    if np.issubdtype(np.dtype(jnp.dtype(dtype)), np.complexfloating):
        x = x + 1j * rng.normal(size=shape)
    else:
        x = np.abs(x) if dtype == "uint8" else x
    x = np.array(jnp.asarray(x).astype(dtype))
    if jnp.issubdtype(x.dtype, jnp.inexact):
        x.flat[:3] = [-0.0, np.inf, jnp.finfo(x.dtype).tiny]
    return x


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize(("dtype", "word"), WIRES)
def test_rows_keep_every_bit(x64, rng, dtype, word, count):
    wire, of = Wire(jnp.dtype(word), 4, None), field((count,), dtype=dtype)
    x = numbers(rng, (2, 3, max(3, count)), dtype)[..., -count:]
    rows = to_rows(jnp.asarray(x), of, wire)
    words = count * x.itemsize // jnp.dtype(word).itemsize
    assert rows.dtype == word
    assert rows.shape == (2, 3, -(-words // 4), 4) == (2, 3, wire.rows(of, count), 4)
    back = np.asarray(from_rows(rows, of, count, wire))
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back.view(np.uint8), x.copy().view(np.uint8))


def test_transport_rounds_updates_alone(rng):
    wire = Wire(jnp.dtype("uint16"), 4, jnp.dtype("bfloat16"))
    x = jnp.asarray(rng.normal(size=8), jnp.float32)
    update, state = field((8,)), field((8,), key=("state", 0))
    assert wire.rows(update, 8) == 2
    assert wire.rows(state, 8) == 4
    through = lambda of: from_rows(to_rows(x, of, wire), of, 8, wire)
    np.testing.assert_array_equal(through(update), x.astype(jnp.bfloat16))
    assert through(update).dtype == jnp.float32
    np.testing.assert_array_equal(through(state), x)


def test_transport_leaves_integers(rng):
    wire = Wire(jnp.dtype("uint16"), 4, jnp.dtype("bfloat16"))
    x, of = jnp.asarray([1, 2**24 + 1, -3]), field((3,), dtype="int32")
    np.testing.assert_array_equal(from_rows(to_rows(x, of, wire), of, 3, wire), x)


def test_units_are_batch_elements_in_order(rng):
    """A unit: two neighbours along the batch axes, in the parameter's axes."""
    x = rng.normal(size=(3, 4, 5, 2))
    of = field((3, 5), batch=(1, 3))
    units = np.asarray(to_units(jnp.asarray(x), of, 2))
    assert units.shape == (4, 30)
    flat = [x[:, i, :, j] for i in range(4) for j in range(2)]
    for unit, one, two in zip(units, flat[::2], flat[1::2], strict=True):
        expected = np.concatenate([one.ravel(), two.ravel()])
        np.testing.assert_array_equal(unit, expected.astype(unit.dtype))
    back = from_units(jnp.asarray(units), of, x.shape)
    np.testing.assert_array_equal(back, x.astype(back.dtype))


CUTS = {
    "rows": (("a",), ()),
    "both axes": (("b",), ("a",)),
    "one axis by two": ((), ("a", "b")),
    "one axis by two, turned": ((), ("b", "a")),
}


def parts(x, cuts, order):
    """What each device holds of the last axes of x, in the order of the devices."""
    found = []
    for where in itertools.product(*(range(SIZES[n]) for n in order)):
        at, part = dict(zip(order, where, strict=True)), x
        for axis, names in enumerate(cuts):
            for name in names:
                pieces = np.split(part, SIZES[name], axis=x.ndim - len(cuts) + axis)
                part = pieces[at[name]]
        found.append(part)
    return found


def exchange(cuts, statistic=None):
    """The plan for two kernels (6, 12) in stacks of four, two of them a unit."""
    cut = tuple(n for n in SIZES if any(n in c for c in cuts))
    kernel = Field("updates", (6, 12), cuts, jnp.dtype("float32"), (0,))
    fields = (kernel,) if statistic is None else (kernel, statistic)
    view = MatrixView(rows=(2,), cols=(1,))
    kind = Kind("w", Leaf(view, (4, 6, 12)), 2, fields, fields, cut, 1.0)
    leaves = [LeafUnits(n, kind.leaf, kind, 2) for n in ("w", "v")]
    return plan_exchange(leaves, SIZES, cut, (), None), kind


@pytest.mark.parametrize("case", CUTS)
def test_matrices_are_put_together_and_taken_apart(rng, case):
    plan, kind = exchange(CUTS[case])
    whole = rng.normal(size=(3, 2, 6, 12)).astype(np.float32)  # three units of two
    of = kind.inputs[0]
    sent = [
        to_rows(jnp.asarray(p.reshape(3, -1)), of, plan.wire)
        for p in parts(whole, CUTS[case], plan.cut)
    ]
    sent = jnp.stack(sent)
    together = assemble(plan, kind, sent)["updates"]
    np.testing.assert_array_equal(together, whole.reshape(6, 6, 12))
    back = disassemble(plan, kind, {"updates": together})
    np.testing.assert_array_equal(back, sent)


def test_of_what_several_hold_each_sends_its_share(rng):
    """A number a column, cut over 'b' alone: two devices hold the same ten numbers of
    a unit of two matrices, so each sends five of them."""
    cuts = (("a",), ("b",))
    statistic = Field("mean", (15,), (("b",),), jnp.dtype("float32"), (0,))
    plan, kind = exchange(cuts, statistic)
    assert plan.copies(kind, statistic) == ("a",)
    assert plan.share(kind, statistic) == 5
    whole = rng.normal(size=(3, 2, 15)).astype(np.float32)  # three units
    kernel = np.zeros((3, 2, 6, 12), np.float32)
    rows = []
    for device, part in enumerate(parts(kernel, cuts, plan.cut)):
        a, b = divmod(device, SIZES["b"])
        held = np.split(whole, SIZES["b"], axis=2)[b].reshape(3, 10)
        share = held[:, 5 * a : 5 * (a + 1)]
        both = [
            to_rows(jnp.asarray(x.reshape(3, -1)), f, plan.wire)
            for x, f in zip((part, share), kind.inputs, strict=True)
        ]
        rows.append(jnp.concatenate(both, axis=1))
    together = assemble(plan, kind, jnp.stack(rows))["mean"]
    np.testing.assert_array_equal(together, whole.reshape(6, 15))
