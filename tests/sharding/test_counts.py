# SPDX-License-Identifier: Apache-2.0
"""What the compiler made of a sharded step: collectives, bytes, FLOPs, temporaries.

The tree of 85M parameters, 12 layers of GPT-2-small's matrices, on eight devices,
compiled from shapes alone. The floor: one shard out and one back.
"""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax import muon, normuon
from orthoptax.matrix import explain, newton_schulz
from orthoptax.sharding import whole_matrices
from orthoptax.sharding.compiled.counting import count
from tests.sharding import steps
from tests.sharding.steps import OVER_8, RATE

WIDTH = 768
LAYER = {"attn": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH),
         "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}  # fmt: skip
GPT2 = {f"layer_{i}/{name}": shape for i in range(12) for name, shape in LAYER.items()}
PARAMETERS = 84_934_656
SHARD = PARAMETERS * 4 // 8  # bytes
OPTIMIZERS = {
    "muon": functools.partial(muon, polar=newton_schulz()),
    "normuon": functools.partial(normuon, polar=newton_schulz()),
    "default": muon,
}
WIDENS = ("attn", "up")
SCHEMES = {  # (kernels that widen, kernels that do not)
    "fsdp": (P(OVER_8), P(OVER_8)),
    "tp": (P(None, OVER_8), P(OVER_8)),
    "fsdp x tp": (P("a", "b"), P("b", "a")),
    "replicated": (P(), P()),
}
OPTIONS = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def scheme(name):
    """{leaf: spec} of `GPT2`."""
    wide, other = SCHEMES[name]
    return {leaf: wide if leaf.endswith(WIDENS) else other for leaf in GPT2}


def products(shapes, stages=5):
    """FLOPs of the products of Newton-Schulz: G = X X', G^2 and (bG + cG^2) X."""
    sides = [
        sorted(shape[-2:]) for shape in shapes for _ in range(math.prod(shape[:-2]))
    ]
    return stages * sum(4 * short**2 * long + 2 * short**3 for short, long in sides)


def working_set(shape):
    """Bytes of one matrix being worked on: X, the next X and a product; G, G^2 and
    bG + cG^2."""
    rows, cols = shape
    return 4 * (3 * rows * cols + 3 * min(shape) ** 2)


def counted(name, shapes, specs, **place):
    """Counts of an update, compiled from shapes for eight devices."""
    where = steps.mesh()
    struct = lambda shape, spec: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(where, spec)
    )
    nest = lambda flat: {leaf: {"kernel": x} for leaf, x in flat.items()}
    params = nest({leaf: struct(shapes[leaf], specs[leaf]) for leaf in shapes})
    tx = OPTIMIZERS[name](RATE, place=whole_matrices(nest(specs), mesh=where, **place))

    def state(path, x):  # momentum as the parameters; the rest is small
        (leaf,) = {p.key for p in path if getattr(p, "key", 0) in shapes} or {None}
        like = leaf is not None and x.shape == shapes[leaf]
        return struct(x.shape, specs[leaf] if like else P())

    whole = jax.eval_shape(
        tx.init, nest({n: struct(s, P()) for n, s in shapes.items()})
    )
    state = jax.tree_util.tree_map_with_path(state, whole)
    lowered = jax.jit(tx.update).lower(params, state, params)
    return count(lowered.compile(OPTIONS))


@functools.cache
def gpt2(name, scheme, **place):
    """Counts of an update of `GPT2`."""
    wide, other = SCHEMES[scheme]
    specs = {leaf: wide if leaf.endswith(WIDENS) else other for leaf in GPT2}
    return counted(name, GPT2, specs, **place)


def kinds(found):
    """The collectives' names, each once a run."""
    return [c.kind for c in found.collectives for _ in range(c.times)]


@pytest.mark.parametrize("scheme", ["fsdp x tp", slow("fsdp"), slow("tp")])
def test_one_shard_out_and_one_back(scheme):
    found = gpt2("muon", scheme)
    assert kinds(found) == ["all-to-all"] * 2
    assert found.result_bytes == 2 * SHARD
    assert found.flops <= 1.03 * products(GPT2.values()) / 8
    assert found.in_branches == ()
    assert found.temp_bytes <= 2 * SHARD + working_set((WIDTH, 4 * WIDTH))


def test_the_default_moves_the_same_and_does_less():
    found = gpt2("default", "fsdp x tp")
    assert kinds(found) == ["all-to-all"] * 2
    assert found.result_bytes == 2 * SHARD
    weighed = sum(explain(*shape).chosen.flops for shape in GPT2.values())
    assert found.flops <= 1.03 * weighed / 8
    assert found.flops <= 0.55 * products(GPT2.values()) / 8
    assert found.in_branches == ()


@pytest.mark.parametrize("scheme", [slow("fsdp x tp"), "fsdp", slow("tp")])
def test_row_statistics_travel_along(scheme):
    found = gpt2("normuon", scheme)
    assert kinds(found) == ["all-to-all"] * 2
    assert 2 * SHARD < found.result_bytes <= 1.02 * 2 * SHARD
    assert found.flops <= 1.03 * products(GPT2.values()) / 8
    assert found.in_branches == ()


def test_half_the_bytes_in_bfloat16():
    found = gpt2("muon", "fsdp x tp", transport=jnp.bfloat16)
    assert kinds(found) == ["all-to-all"] * 2
    assert found.result_bytes == SHARD


@pytest.mark.parametrize(("transport", "size"), [(jnp.bfloat16, 2), slow(None, 4)])
def test_replicated_work_is_shared_out(transport, size):
    found = gpt2("muon", "replicated", transport=transport)
    assert kinds(found) == ["all-gather"]
    assert found.result_bytes == size * PARAMETERS
    assert found.flops <= 1.03 * products(GPT2.values()) / 8
    assert found.in_branches == ()


@pytest.mark.slow
def test_replicated_row_statistics():
    found = gpt2("normuon", "replicated")
    assert kinds(found) == ["all-gather"]
    assert found.result_bytes <= 1.02 * 4 * PARAMETERS


WAYS = {"rows": P(None, OVER_8), "columns": P(OVER_8), "both": P("a", "b")}


def equal(number, shape, spec, **place):
    """(counts, result bytes over the floor, FLOPs over an eighth) of equal leaves."""
    leaves = [f"dense_{i}" for i in range(number)]
    shapes = dict.fromkeys(leaves, shape)
    found = counted("muon", shapes, dict.fromkeys(leaves, spec), **place)
    floor = 2 * 4 * number * math.prod(shape) / 8
    return (
        found,
        found.result_bytes / floor,
        8 * found.flops / products(shapes.values()),
    )


@pytest.mark.parametrize("way", WAYS)
def test_16_equal_leaves(way):
    found, size, work = equal(16, (512, 1024), WAYS[way])
    assert kinds(found) == ["all-to-all"] * 2
    assert (size, work) == (1, 1)


@pytest.mark.parametrize("number", [11, 12])
def test_leaves_that_devices_do_not_divide(number):
    """Two for the busiest device: 16 of 12 is 1.33, of 11 is 1.45."""
    found, size, work = equal(number, (768, 3072), P("a", "b"))
    assert kinds(found) == ["all-to-all"] * 2
    assert size == pytest.approx(16 / number)
    assert work == pytest.approx(16 / number)
    assert found.in_branches == ()


@pytest.mark.parametrize("way", WAYS)
def test_a_lone_matrix_is_gathered(way):
    found, *_ = equal(1, (512, 1024), WAYS[way])
    assert kinds(found) == ["all-gather"]
    assert found.result_bytes == 4 * 512 * 1024


def test_a_lone_replicated_matrix_stays():
    found, *_ = equal(1, (512, 1024), P())
    assert kinds(found) == []


def test_a_stack_cut_on_its_layers_stays():
    shape = (16, 512, 1024)
    found = counted("muon", {"layers/up": shape}, {"layers/up": P(OVER_8)})
    assert kinds(found) == []
    assert found.flops == products([shape]) / 8


def test_a_stack_cut_on_its_rows_is_shared_out():
    shape = (16, 512, 1024)
    found = counted("muon", {"layers/up": shape}, {"layers/up": P(None, None, OVER_8)})
    assert kinds(found) == ["all-to-all"] * 2
    assert found.result_bytes == 2 * 4 * math.prod(shape) / 8
    assert found.flops == products([shape]) / 8


def test_two_of_eight_devices_hold_a_matrix():
    """Cut over two, replicated over four: one all-to-all each way, then a gather."""
    found, *_ = equal(16, (512, 1024), P("b"))
    assert sorted(kinds(found)) == ["all-gather", "all-to-all", "all-to-all"]
    assert found.flops == products([(512, 1024)] * 16) / 8
