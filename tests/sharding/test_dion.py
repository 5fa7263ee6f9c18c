# SPDX-License-Identifier: Apache-2.0
"""Dion where it is cut: the numbers of one device, and the bytes of its factors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax import dion, on_matrices
from orthoptax.matrix import randomized_cholesky_qr
from orthoptax.sharding import (
    average,
    count,
    in_parts,
    per_replica,
    state_specs,
    synchronize,
)
from orthoptax.transforms import low_rank, normalize_neurons

SHAPES = {"down": (64, 32), "square": (32, 32), "layers": (3, 32, 64), "up": (32, 64)}
WHERE = {  # over the axes fs and tp: rows and columns are the other way round here
    "down": P("tp", "fs"),
    "square": P("fs", "tp"),
    "layers": P(None, "fs", "tp"),
    "up": P(None, ("fs", "tp")),
    "scale": P(),
}
STEPS = 3
# As Householder's Q, with a sketch small enough to be used on these matrices.
SKETCHED = functools.partial(low_rank, 0.25, qr=randomized_cholesky_qr(multiple_of=4))


def tree(seed, *lead):
    rng = np.random.default_rng(seed)
    draw = lambda s: jnp.asarray(rng.standard_normal((*lead, *s)), jnp.float32)
    return {**{k: {"kernel": draw(s)} for k, s in SHAPES.items()}, "scale": draw((32,))}


def specs():
    return {k: s if k == "scale" else {"kernel": s} for k, s in WHERE.items()}


def mesh(**axes):
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=types)


def alone(grads, **options):
    """Updates and momentum after these gradients, on one device."""
    tx = dion(0.02, **options)
    params, update = tree(0), jax.jit(tx.update)
    state = tx.init(params)
    for g in grads:
        updates, state = update(g, state, params)
    return updates, optax.tree.get(state, "momentum")


def near(got, want, rtol=2e-4):
    """Equal up to rounding, each leaf relative to its largest entry."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = np.max(np.abs(b))
        np.testing.assert_allclose(np.asarray(a) / scale, b / scale, atol=rtol)


@pytest.fixture(scope="module")
def cut():
    """Three steps on matrices cut over four by two devices."""
    m = mesh(fs=4, tp=2)
    tx = dion(0.02, compressor=SKETCHED(), place=in_parts(specs(), mesh=m))
    shardings = jax.tree.map(lambda s: NamedSharding(m, s), specs())
    params = jax.device_put(tree(0), shardings)
    state, update = tx.init(params), jax.jit(tx.update)
    grads = [tree(t) for t in range(1, STEPS + 1)]
    for g in grads:
        updates, state = update(jax.device_put(g, shardings), state, params)
    compiled = update.lower(params, state, params).compile()
    return grads, updates, state, count(compiled), shardings


def test_updates_are_those_of_one_device(cut):
    grads, updates, state, _, _ = cut
    want, momentum = alone(grads, compressor=SKETCHED())
    near(updates, want)
    near(optax.tree.get(state, "momentum"), momentum)


def test_everything_lies_as_its_parameter(cut):
    _, updates, state, _, shardings = cut
    momentum = optax.tree.get(state, "momentum")
    for name in SHAPES:
        for tree in (updates, momentum):
            x = tree[name]["kernel"]
            wanted = shardings[name]["kernel"]
            assert x.sharding.is_equivalent_to(wanted, x.ndim), name
    basis = optax.tree.get(state, "basis")
    spec = lambda name: basis[f"{name}/kernel"].sharding.spec
    # Of 64 x 32 kernels, rows are the 32 outputs: the short side, cut over fs.
    assert spec("down") == P("fs", "tp")
    assert spec("square") == P("fs", "tp")  # columns, the inputs
    assert spec("layers") == P(None, "fs", "tp")


def test_no_collective_depends_on_a_branch(cut):
    assert not cut[3].in_branches
    assert cut[3].unknown_trips == 0


def test_nothing_larger_than_a_factor_travels(cut):
    rank = 8
    largest = max(c.result_bytes for c in cut[3].collectives)
    assert largest <= 3 * 64 * rank * 4  # P of the three layers, all of its rows


def ring(kind, size, devices):
    """Bytes a device receives for a full buffer of that many bytes."""
    return {"all-reduce": 2, "all-gather": 1}[kind] * (devices - 1) / devices * size


@pytest.mark.parametrize("side", ["cols", "rows"])
def test_bytes_are_those_of_the_table(side):
    """One tall matrix B of 256 x 64 at rank 16, either side cut over eight devices."""
    m, n, r, w, s = 256, 64, 16, 8, 4
    spec = {"w": {"kernel": P("x") if side == "cols" else P(None, "x")}}
    qr = randomized_cholesky_qr(multiple_of=4)  # sketch: 20 rows
    tx = dion(
        0.02,
        compressor=low_rank(rank=r, qr=qr),
        place=in_parts(spec, mesh=(over := mesh(x=w))),
    )
    w_ = jax.ShapeDtypeStruct(
        (n, m), jnp.float32, sharding=NamedSharding(over, spec["w"]["kernel"])
    )
    params = {"w": {"kernel": w_}}
    states = state_specs(tx, params, spec, mesh=over)
    state = jax.tree.map(
        lambda x, p: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(over, p)
        ),
        jax.eval_shape(tx.init, params),
        states,
    )
    found = count(jax.jit(tx.update).lower(params, state, params).compile())
    table = {  # muon_distributed.md, 5.4, with F or T devices and the other one
        "cols": ring("all-reduce", m * r * s, w) + ring("all-reduce", r * 4, w),
        "rows": ring("all-gather", n * r * s, w)  # Q
        + ring("all-reduce", (20 * r + r * r) * 4, w)  # S P and P^T P
        + ring("all-reduce", n * r * s, w),  # R
    }
    # Powers of two that keep squares in range are a few numbers more.
    assert table[side] <= found.ring_bytes <= 1.02 * table[side] + 64


def replicas(tx, m, where=None):
    """init and update of `tx` in a shard_map, the gradients of dp apart."""
    where = specs() if where is None else where
    states = state_specs(tx, tree(0), where, mesh=m, replicas=("dp",))
    own = jax.tree.map(lambda s: P("dp", *s), where)
    apart = lambda g, s, p: tx.update(jax.tree.map(lambda x: x[0], g), s, p)
    shard = functools.partial(jax.shard_map, mesh=m)
    return (
        jax.jit(shard(tx.init, in_specs=(where,), out_specs=states)),
        jax.jit(shard(apart, in_specs=(own, states, where), out_specs=(where, states))),
    )


def compressed(where, **options):
    place = in_parts(where, replicas=("dp",))
    rest = optax.chain(average("dp"), optax.adamw(0.02, weight_decay=0.0))
    return per_replica(dion(0.02, place=place, rest=rest, **options))


@pytest.fixture(scope="module")
def apart():
    """Three steps of two replicas of four devices, at first one without a gradient."""
    init, update = replicas(
        compressed(specs(), rank_fraction=0.25), mesh(dp=2, fs=2, tp=2)
    )
    params = tree(0)
    grads = [tree(t, 2) for t in range(1, STEPS + 1)]
    grads[0] = jax.tree.map(lambda g: g.at[0].set(0), grads[0])
    state, states = init(params), []
    for g in grads:
        updates, state = update(g, state, params)
        states.append(state)
    found = count(update.lower(grads[0], state, params).compile())
    return grads, updates, states, found, update


def test_replicas_move_as_one_device_on_the_mean_gradient(apart):
    grads, updates, states, _, _ = apart
    means = [jax.tree.map(lambda g: g.mean(0), g) for g in grads]
    want, momentum = alone(means, rank_fraction=0.25)
    near(updates, want)  # one value for all replicas: the specs of the result say so
    found = optax.tree.get(states[-1], "momentum")
    near(jax.tree.map(lambda m: m.mean(0), found), momentum)
    for name in SHAPES:
        a, b = found[name]["kernel"]
        assert float(jnp.max(jnp.abs(a - b))) > 1, f"{name} did not diverge"


def test_no_gradient_is_averaged_over_replicas(apart):
    _, _, _, found, _ = apart
    matrices = [math.prod(s) // 4 for s in SHAPES.values()]  # of one device
    sums = [c.result_bytes // 4 for c in found.collectives if c.kind == "all-reduce"]
    assert max(sums) < max(matrices)
    assert not found.in_branches


@pytest.mark.slow
def test_synchronizing_changes_the_momentum_and_not_the_trajectory(apart):
    grads, _, states, _, update = apart
    params, state = tree(0), states[0]
    mean = synchronize(state)
    a, b = optax.tree.get(mean, "momentum")["up"]["kernel"]
    np.testing.assert_array_equal(a, b)
    for g in grads[1:]:
        updates, state = update(g, state, params)
        other, mean = update(g, mean, params)
    near(other, updates)


def test_synchronize_changes_the_number_of_replicas():
    state = per_replica(dion(0.02)).init(tree(0))
    momentum = optax.tree.get(synchronize(state, 4), "momentum")
    assert momentum["layers"]["kernel"].shape == (4, 3, 32, 64)


@pytest.mark.slow
def test_a_gradient_of_low_rank_where_rows_are_cut():
    """Fewer directions than the rank: the columns that depend on others add nothing."""
    rng = np.random.default_rng(0)
    thin = rng.standard_normal((32, 2)) @ rng.standard_normal((2, 64))
    grad = {"w": {"kernel": jnp.asarray(thin, jnp.float32)}}
    spec = {"w": {"kernel": P(None, "x")}}  # the outputs, which are the tall side
    place = in_parts(spec, mesh=mesh(x=8))
    results = []
    for where in (None, place):
        tx = dion(0.02, compressor=SKETCHED(), place=where)
        updates, _ = jax.jit(tx.update)(grad, tx.init(grad), grad)
        results.append(updates)
    here, there = results
    near(there, here, rtol=1e-3)


def test_links_that_need_whole_matrices_are_refused():
    place = in_parts({"w": {"kernel": P("x")}}, mesh=mesh(x=8))
    tx = on_matrices(normalize_neurons(), place=place)
    params = {"w": {"kernel": jnp.ones((8, 8))}}
    with pytest.raises(TypeError, match="'w/kernel' include one that needs whole"):
        tx.update(params, tx.init(params))


def test_replicas_under_jit_are_refused():
    place = in_parts({"w": {"kernel": P()}}, mesh=mesh(x=8), replicas=("x",))
    tx = dion(0.02, place=place)
    params = {"w": {"kernel": jnp.ones((8, 8))}}
    with pytest.raises(ValueError, match="enclosing shard_map or pmap over these axes"):
        tx.update(params, tx.init(params), params)
