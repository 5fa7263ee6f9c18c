# SPDX-License-Identifier: Apache-2.0
"""Teams of devices on one matrix: their numbers, what they move, their errors."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from orthoptax import dion, muon, normuon
from orthoptax._types import KernelOnParts
from orthoptax.layout import flax, on_matrices
from orthoptax.matrix import gram_newton_schulz, schatten
from orthoptax.sharding import device, whole_matrices
from orthoptax.transforms import orthogonalize
from tests import zoo
from tests.sharding import steps, test_counts
from tests.sharding.steps import OVER_8
from tests.sharding.test_leaves import kernel, many, together

FLOAT, SHORT, LONG = 4, 768, 3072
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
GRAM = gram_newton_schulz()
CALM = gram_newton_schulz([(1.5, -0.5)] * 5)  # rounding does not upset it
BOTH, TURNED = P("a", "b"), P("b", "a")
HALF_CUT = together(many(5, (8, 16), P("b")), kernel((8, 8), P("b"), "square"))
UNEVEN = together(
    many(9, (8, 16), BOTH), kernel((12, 32, 8), P(None, "b", "a"), "layers")
)
FEW = together(many(3, (8, 16), BOTH), kernel((32, 8), TURNED, "tall"))
TEN = kernel((10, 8, 16), P(None, "a", "b"), "layers")  # of which eight go alone
ODD = many(3, (8, 12), BOTH)  # no part has a side that four can share: all goes whole
STACKS = together(
    kernel((3, 8, 16), P(None, "a", "b"), "layers"),
    kernel((3, 3, 2, 16), P(*[None] * 3, OVER_8), "conv"),
)
CASES = {  # (shapes, specs), team
    "uneven": (UNEVEN, 2),
    "ten": (TEN, 2),
    "few": (FEW, 2),
    "lone": (kernel((8, 64), P("a", "b")), 8),
    "stacks": (STACKS, 2),
    "half cut": (HALF_CUT, 4),
    "replicated": (many(3, (8, 16), P()), 8),
    "odd": (ODD, 4),
    "rows": (many(5, (8, 32), P(OVER_8)), 4),
    "columns": (many(5, (8, 32), P(None, OVER_8)), 4),
    "turned": (many(5, (32, 8), P(("b", "a"))), 2),
}


@pytest.fixture
def joint(monkeypatch):
    """A list that grows wherever teams get something to do."""
    real, found = device._jointly, []

    def spy(exchange, *rest):
        found.append(exchange.together)
        return real(exchange, *rest)

    monkeypatch.setattr(device, "_jointly", spy)
    return found


@pytest.mark.parametrize("case", ["ten", *(slow(c) for c in CASES if c != "ten")])
def test_numbers_are_those_of_one_device(case, joint):
    (shapes, specs), team = CASES[case]
    given = {"polar": CALM}
    ours = steps.sharded("muon", shapes, specs, arguments=given, team=team)
    steps.assert_equal(ours, steps.local("muon", shapes, **given))
    steps.assert_cut(ours[0][-1], ours[2])
    assert bool(joint) == (case != "odd")


@pytest.mark.parametrize("case", ["lone", slow("uneven")])
def test_numbers_in_double_precision(case, x64):
    (shapes, specs), team = CASES[case]
    dtype, given = np.float64, {"arguments": {"polar": GRAM}, "team": team}
    ours = steps.sharded("muon", shapes, specs, dtype, **given)
    steps.assert_equal(ours, steps.local("muon", shapes, dtype, polar=GRAM), 1e-12)


PARAMS = {
    "bfloat16": lambda shapes: zoo.tree(0, shapes, jnp.bfloat16),
    "complex64": lambda shapes: jax.tree.map(
        jax.lax.complex, zoo.tree(0, shapes), zoo.tree(1, shapes)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PARAMS)
def test_other_dtypes(dtype, joint):
    shapes, specs = many(3, (8, 16), BOTH)
    params = PARAMS[dtype](shapes)
    where = steps.mesh()
    put = jax.device_put(params, steps.shardings(where, specs))
    links = lambda place: muon(0.02, polar=GRAM, place=place)
    tx = links(whole_matrices(specs, mesh=where, team=4))
    ours = steps.take(tx, put, [put], start=steps.spread(tx.init(put), where))
    theirs = steps.take(links(None), params, [params])
    both = lambda t: jax.tree.map(lambda x: np.stack([x.real, x.imag]), t)
    steps.assert_equal(*map(both, map(jax.device_get, (ours, theirs))))
    assert {str(x.dtype) for x in jax.tree.leaves(ours[0])} == {dtype}
    assert joint


@pytest.mark.slow
def test_blocks_of_a_fused_projection(x64, joint):
    """Queries are as wide as tall, keys and values wide: columns are the long side."""
    layout = flax(fused={"qkv": (16, 8, 8)})
    shapes, specs = kernel((16, 32), P("a", "b"), "qkv")
    given = {"polar": GRAM, "layout": layout}
    dtype = np.float64
    ours = steps.sharded("muon", shapes, specs, dtype, arguments=given, team=2)
    steps.assert_equal(ours, steps.local("muon", shapes, dtype, **given), 1e-11)
    assert joint


class Sums(NamedTuple):
    rows: dict
    cols: dict
    sizes: dict
    past: dict


def sums():
    """A link on parts with states along rows, along columns, and of a matrix."""

    def init(params):
        like = lambda fn: {n: jnp.zeros_like(fn(x)) for n, x in params.items()}
        some = (lambda x: x[..., :1], lambda x: x[..., :1, :], lambda x: x[..., :1, :1])
        return Sums(*map(like, (*some, lambda x: x)))

    def update(updates, state, params=None, *, parts=None, **extra):
        def over(name, x, axis, side):
            total = jnp.sum(x, axis, keepdims=True)
            if parts is None:
                return total
            return parts[name].total(total, getattr(parts[name], side))

        squares = {n: u * u for n, u in updates.items()}
        add = lambda tree, new: {n: x + new[n] for n, x in tree.items()}
        rows = {n: over(n, x, -1, "cols") for n, x in squares.items()}
        cols = {n: over(n, x, -2, "rows") for n, x in squares.items()}
        sizes = {n: over(n, x, -2, "rows") for n, x in rows.items()}
        new = Sums(*map(add, state, (rows, cols, sizes, updates)))
        result = {
            n: u * new.rows[n] + new.cols[n] / new.sizes[n] - new.past[n] * params[n]
            for n, u in updates.items()
        }
        return result, new

    return KernelOnParts(init, update)


@pytest.mark.parametrize(
    "case", ["few", *map(slow, ["uneven", "half cut", "replicated"])]
)
def test_states_travel_with_their_fraction(case, joint):
    """Two steps, so that the state has come back, and gone there, once."""
    (shapes, specs), team = CASES[case]
    params, where = zoo.tree(0, shapes), steps.mesh()
    links = lambda place: on_matrices(sums(), place=place)
    grads = steps.gradients(shapes, np.float32)
    put = lambda tree: jax.device_put(tree, steps.shardings(where, specs))
    tx = links(whole_matrices(specs, mesh=where, team=team))
    start = steps.spread(tx.init(put(params)), where)
    ours = steps.take(tx, put(params), list(map(put, grads)), start=start)
    theirs = steps.take(links(None), params, grads)
    steps.assert_equal(ours, jax.device_get(theirs), 2e-5)
    assert joint
    for mine, alone in zip(ours[1].links[0], theirs[1].links[0], strict=True):
        assert {n: x.shape for n, x in mine.items()} == {
            n: x.shape for n, x in alone.items()
        }


def counted(number, spec, team, polar=GRAM):
    """What the compiler made of so many leaves of 768 x 3072."""
    made = lambda rate, place: muon(rate, polar=polar, place=place)
    leaves = [f"dense_{i}" for i in range(number)]
    shapes = dict.fromkeys(leaves, (SHORT, LONG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(test_counts.OPTIMIZERS, "gram", made)
        return test_counts.counted(
            "gram", shapes, dict.fromkeys(leaves, spec), team=team
        )


TRIANGLE = SHORT * (SHORT + 1) // 2 * FLOAT
LONG_PRODUCTS = 2 * 2 * 2 * SHORT**2 * LONG  # X X^H and Q X, of two blocks
SMALL_PRODUCTS = 14 * 2 * SHORT**3  # of two stages 5, of three 9


@pytest.mark.parametrize("way", ["both", *map(slow, ["rows", "columns"])])
def test_twelve_of_one_shape_over_eight(way):
    """One alone and half of one: 12 of 12, and a triangle a block."""
    found = counted(12, test_counts.WAYS[way], 2)
    floor = 2 * FLOAT * 12 * SHORT * LONG / 8
    large = [c for c in found.collectives if c.result_bytes > FLOAT]
    assert sorted((c.kind, c.result_bytes, c.group_size) for c in large) == [
        *[("all-reduce", TRIANGLE, 2)] * 2,
        *[("all-to-all", floor / 2, 8)] * 2,
    ]
    assert found.result_bytes <= 1.1 * floor
    alone = LONG_PRODUCTS + SMALL_PRODUCTS
    assert found.flops == alone + LONG_PRODUCTS / 2 + SMALL_PRODUCTS
    assert found.flops <= 1.25 / 8 * 12 * alone
    assert found.in_branches == ()


@pytest.mark.slow
@pytest.mark.parametrize("way", test_counts.WAYS)
def test_a_lone_matrix_in_the_gram_form(way):
    """There, one sum of a triangle where the scale is read off it, and back."""
    polar = gram_newton_schulz([(1.5, -0.5)] * 5, restarts=(), scale=schatten(1e-8))
    found = counted(1, test_counts.WAYS[way], 8, polar)
    shard = FLOAT * SHORT * LONG / 8
    assert sorted((c.kind, c.result_bytes) for c in found.collectives) == [
        ("all-reduce", TRIANGLE),
        *[("all-to-all", shard)] * 2,
    ]
    small = 3 * 4 * 2 * SHORT**3  # between two stages: Q Z, R Z and Z W
    assert found.flops == 2 * 2 * SHORT**2 * LONG / 8 + small


@pytest.mark.slow
def test_without_a_remainder_nobody_waits():
    found = counted(16, BOTH, 4)
    assert test_counts.kinds(found) == ["all-to-all"] * 2


def inside(mapped, specs, shapes):
    """Updates of one step inside a shard_map, of which `mapped` makes the program."""
    tx = on_matrices(orthogonalize(GRAM), place=whole_matrices(specs, team=4))
    params = zoo.tree(0, shapes)
    return mapped(lambda x: tx.update(x, tx.init(x), x)[0])(params), params


def test_inside_a_shard_map():
    shapes, specs = many(3, (8, 16), BOTH)
    mapped = lambda fn, check: steps.jit(
        jax.shard_map(
            fn, mesh=steps.mesh(), in_specs=(specs,), out_specs=specs, check_vma=check
        )
    )
    ours, params = inside(lambda fn: mapped(fn, False), specs, shapes)
    local = jax.tree.map(lambda x: GRAM(x.T).T if x.shape[0] > 8 else GRAM(x), params)
    zoo.assert_close(jax.device_get(ours), jax.device_get(local))
    with pytest.raises(
        ValueError, match=r"team=4 inside .* check_vma=True.*Pass check"
    ):
        inside(lambda fn: mapped(fn, True), specs, shapes)


@pytest.mark.slow
def test_inside_pmap():
    params = zoo.tree(0, {"dense": {"kernel": (8, 64)}})
    place = whole_matrices({"dense": {"kernel": P(None, "i")}}, team=4)
    tx = on_matrices(orthogonalize(GRAM), place=place)
    pieces = jnp.stack(jnp.split(params["dense"]["kernel"], 8, axis=1))
    one = lambda x: tx.update(
        {"dense": {"kernel": x}}, tx.init({"dense": {"kernel": x}})
    )
    out = jax.pmap(lambda x: one(x)[0]["dense"]["kernel"], axis_name="i")(pieces)
    whole = np.concatenate(list(np.asarray(out)), axis=1)
    zoo.assert_close(whole, np.asarray(GRAM(params["dense"]["kernel"])))


BAD = {
    "rows of others": (normuon, 2, TypeError, r"team=2, but the links of 'dense_0/.*"
                       r"Expected links that sum.*Pass polar=orthoptax.matrix.gram"),
    "compressor": (dion, 2, TypeError, r"fraction.*Use orthoptax.sharding.in_parts"),
    "no divisor": (muon, 3, ValueError, r"'dense_0/kernel' of shape \(8, 16\) is "
                   r"worked on by 8 devices.*no teams of 3\. Expected a team that"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_teams(case):
    make, team, error, text = BAD[case]
    shapes, specs = many(2, (8, 16), BOTH)
    params = zoo.tree(0, shapes)
    tx = make(0.02, place=whole_matrices(specs, mesh=steps.mesh(), team=team))
    with pytest.raises(error, match=text):
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)


def test_a_team_of_nobody():
    with pytest.raises(ValueError, match="team=0"):
        whole_matrices(team=0)
