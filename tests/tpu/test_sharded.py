# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler makes of sharded steps: bytes, collectives, memory."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax import dion, muon, normuon
from orthoptax.matrix import newton_schulz
from orthoptax.sharding import count, in_parts, plan, state_specs, whole_matrices
from orthoptax.sharding.planning.models import model, specs
from tests.tpu.topologies import compile, mesh

RATE = 0.02
# The collectives of `shard_map` are the same, compiled in a tenth of the time; memory
# is not, nor what is left to the compiler.
QUICKLY = {"exec_time_optimization_effort": -1.0}
LAYERS, WIDTH, DEVICES, FLOAT = 12, 768, 8, 4
LAYER = {
    "attention": (WIDTH, 3 * WIDTH),
    "out": (WIDTH, WIDTH),
    "up": (WIDTH, 4 * WIDTH),
    "down": (4 * WIDTH, WIDTH),
}
TREE = {
    f"layer_{i}": {
        name: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
        for name, shape in LAYER.items()
    }
    for i in range(LAYERS)
}
SHARD = FLOAT * LAYERS * sum(m * n for m, n in LAYER.values()) // DEVICES
BOTH = {  # columns of what widens over tp, rows of the others; fsdp on the other side
    name: P("fsdp", "tp") if name in ("attention", "up") else P("tp", "fsdp")
    for name in LAYER
}
CUTS = {
    "fsdp": ({"fsdp": 8}, dict.fromkeys(LAYER, P("fsdp"))),
    "fsdp x tp": ({"fsdp": 4, "tp": 2}, BOTH),
}
POD = [("v5e:16x16", {"fsdp": 16, "tp": 16}), ("v5p:8x8x8", {"fsdp": 64, "tp": 8})]


def step(tx, tree, where, devices, options):
    """Counts of an update whose arguments and results lie as `where` says."""
    with jax.set_mesh(devices):
        state = jax.eval_shape(tx.init, tree)
        states = state_specs(tx, tree, where, mesh=devices)
    lies = jax.tree.map(lambda s: NamedSharding(devices, s), (where, states))
    put = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    tree, state = jax.tree.map(put, (tree, state), lies)
    update = lambda *arguments: tx.update(*arguments)
    return count(
        compile(update, tree, state, tree, options=options, out_shardings=lies)
    )


def layers(cut, make, options=QUICKLY):
    """Counts of an update of the tree; make(specs, mesh) is the optimizer."""
    sizes, layer = CUTS[cut]
    devices = mesh("v5e:2x4", **sizes)
    where = {i: {n: {"kernel": s} for n, s in layer.items()} for i in TREE}
    return step(make(where, devices), TREE, where, devices, options)


def at_whole(optimizer, **about_place):
    """An optimizer on whole matrices, of specs and mesh."""
    return lambda where, devices: optimizer(
        RATE, place=whole_matrices(where, mesh=devices, **about_place)
    )


def kinds(found):
    """The collectives' names, each once a run."""
    return [c.kind for c in found.collectives for _ in range(c.times)]


@pytest.mark.parametrize("transport", [None, jnp.bfloat16])
@pytest.mark.parametrize("cut", CUTS)
def test_one_shard_out_and_one_back(cut, transport):
    found = layers(cut, at_whole(muon, transport=transport))
    assert kinds(found) == ["all-to-all"] * 2
    assert found.result_bytes == 2 * SHARD // (1 if transport is None else 2)
    assert found.in_branches == ()
    products = LAYERS * sum(
        5 * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) for s in LAYER.values()
    )
    assert found.flops <= 1.1 * products / DEVICES


@pytest.mark.parametrize("cut", CUTS)
def test_row_statistics_travel_along(cut):
    found = layers(cut, at_whole(normuon))
    assert kinds(found) == ["all-to-all"] * 2
    assert 2 * SHARD < found.result_bytes <= 1.02 * 2 * SHARD


@pytest.mark.parametrize(
    ("cut", "transport"),
    [("fsdp", None), ("fsdp", jnp.bfloat16), ("fsdp x tp", None)],
)
def test_temporaries_are_two_shards_and_a_matrix(cut, transport):
    """At full effort, products of one pass: those of six compile four times as long.

    A matrix at work: X, the next X and a product; G, G^2 and bG + cG^2.
    """
    one_pass = functools.partial(muon, polar=newton_schulz(precision="default"))
    found = layers(cut, at_whole(one_pass, transport=transport), options=None)
    rows, cols = LAYER["up"]
    at_work = FLOAT * (3 * rows * cols + 3 * rows**2)
    assert found.temp_bytes <= 2 * SHARD + at_work
    if transport is not None:
        assert found.result_bytes == SHARD


def dion_of(rank_fraction):
    return lambda where, devices: dion(
        RATE, rank_fraction=rank_fraction, place=in_parts(where, mesh=devices)
    )


def test_dion_moves_its_factors():
    """Bytes of table 5.4 of muon_distributed.md; stacks of P are shared out evenly."""
    rank = WIDTH // 4
    found = layers("fsdp", dion_of(1 / 4))
    ring = lambda size: (DEVICES - 1) / DEVICES * FLOAT * size
    stack = math.ceil(LAYERS / DEVICES) * DEVICES
    # Here the inputs are cut, the short side of all but the last.
    long_sides = (3 * WIDTH, WIDTH, 4 * WIDTH)
    p = 2 * ring(stack * sum(long_sides) * rank)
    q_and_r = 3 * ring(LAYERS * WIDTH * rank)  # gathered; summed
    sketch = 256  # rows: 1.25 ranks, up to a multiple of 128
    factors = 2 * ring(LAYERS * (sketch * rank + rank**2))
    assert found.ring_bytes == pytest.approx(p + q_and_r + factors, rel=0.01)
    assert found.largest <= FLOAT * stack * max(long_sides) * rank
    assert found.in_branches == ()


def test_dion_on_two_axes():
    found = layers("fsdp x tp", dion_of(1 / 4))
    assert found.result_bytes <= 1.1 * 2 * SHARD
    assert found.largest <= FLOAT * LAYERS * 4 * WIDTH * WIDTH // 4
    assert found.in_branches == ()


@pytest.mark.parametrize("name", ["gpt2-small", "llama3-8b"])
@pytest.mark.parametrize(("topology", "sizes"), POD, ids=["v5e", "v5p"])
def test_as_planned(topology, sizes, name):
    devices, tree = mesh(topology, **sizes), model(name)
    where = specs(tree, sizes)
    chip, _ = topology.split(":")
    optimizer = lambda place: muon(RATE, place=place)
    chosen = plan(tree, devices, where, chip, optimizer=optimizer).chosen
    found = step(optimizer(chosen.place), tree, where, devices, QUICKLY)
    cost = chosen.cost
    assert found.number == len(cost.collectives)
    assert found.result_bytes == pytest.approx(cost.result_bytes, rel=0.05)
    assert found.ring_bytes == pytest.approx(cost.ring_bytes, rel=0.05)
    assert found.flops == pytest.approx(cost.total_flops, rel=0.05)
    assert "all-gather" not in kinds(found)
