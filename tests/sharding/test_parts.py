# SPDX-License-Identifier: Apache-2.0
"""Links that work on parts of matrices: the Gram form, and sums of measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax import adamuon, muon, muon_hyperball, muown, spel
from orthoptax.matrix import gram_newton_schulz, newton_schulz, svd
from orthoptax.sharding import count, in_parts, whole_matrices

SIZE, DEVICES, FLOAT = 16, 8, 4


def mesh():
    return jax.make_mesh((DEVICES,), ("tp",), axis_types=(AxisType.Auto,))


def kernels(number, shape, spec):
    """(parameters, specs, shardings) of so many (in, out) kernels."""
    rng = np.random.default_rng(0)
    draw = lambda: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    params = {f"layers_{i}": {"kernel": draw()} for i in range(number)}
    specs = jax.tree.map(lambda p: spec, params)
    return params, specs, jax.tree.map(lambda s: NamedSharding(mesh(), s), specs)


def both(make, place, params, shardings):
    """(updates with a place, without, what the first costs), after two steps."""
    results = []
    for where, cut in ((place, shardings), (None, None)):
        tx = make(where)
        w = params if cut is None else jax.device_put(params, cut)
        grads = jax.tree.map(lambda x: jnp.sin(3 * x), w)
        state, update = tx.init(w), jax.jit(tx.update)
        for _ in range(2):
            updates, state = update(grads, state, w)
        results.append((updates, count(update.lower(grads, state, w).compile())))
    (there, cost), (here, alone) = results
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5 * float(jnp.max(jnp.abs(b))))
    return cost, alone


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((64, SIZE), P("tp")), ((SIZE, 64), P(None, "tp")), ((SIZE, SIZE), P(None, "tp"))],
    ids=["inputs", "outputs", "square"],
)
def test_small_matrices_are_shared_out(shape, spec):
    """A matrix a device: Gram matrices are scattered, their factors gathered."""
    params, specs, shardings = kernels(DEVICES, shape, spec)
    stages = 5  # of a schedule that rounding does not upset
    polar = gram_newton_schulz([(1.5, -0.5)] * stages, restarts=())
    make = lambda place: muon(0.02, polar=polar, place=place)
    cost, _ = both(make, in_parts(specs, mesh=mesh()), params, shardings)
    large = [c for c in cost.collectives if c.result_bytes > DEVICES * FLOAT]
    gram = SIZE * SIZE * FLOAT
    found = sorted((c.kind, c.result_bytes) for c in large)
    assert found == [("all-gather", DEVICES * gram), ("reduce-scatter", gram)]
    long = max(shape) // DEVICES
    products = DEVICES * 2 * (2 * SIZE**2 * long)  # X X^T and Q X, a part of each
    # Of one small matrix: Q Z, R Z and Z W between two stages.
    products += 3 * (stages - 1) * 2 * SIZE**3
    assert cost.flops == products


def test_the_plain_form_sums_every_stage():
    params, specs, shardings = kernels(3, (64, SIZE), P("tp"))
    make = lambda place: muon(0.02, polar=newton_schulz(), place=place)
    cost, _ = both(make, in_parts(specs, mesh=mesh()), params, shardings)
    sums = [c for c in cost.collectives if c.result_bytes > 3 * FLOAT]
    assert {c.kind for c in sums} == {"all-reduce"}
    triangle = SIZE * (SIZE + 1) // 2
    assert sum(c.result_bytes * c.times for c in sums) == 5 * 3 * triangle * FLOAT


def test_a_cut_short_side_is_refused():
    params, specs, _ = kernels(1, (SIZE, 64), P("tp"))
    tx = muon(0.02, place=in_parts(specs, mesh=mesh()))
    with pytest.raises(ValueError, match="shorter side of 'layers_0/kernel', 64 x 16"):
        tx.update(params, tx.init(params), params)


def test_both_polar_factors_of_spel_share_an_exchange():
    params, specs, shardings = kernels(DEVICES, (64, 16), P("tp"))
    place = whole_matrices(specs, mesh=mesh())
    make = lambda p: spel(0.02, polar=svd(), place=p)
    cost, _ = both(make, place, params, shardings)
    assert [c.kind for c in cost.collectives] == ["all-to-all"] * 2
    shard = DEVICES * 64 * 16 * FLOAT // DEVICES
    norms = 2 * DEVICES * FLOAT  # one number a matrix, in rows of the buffer
    there, back = (c.result_bytes for c in cost.collectives)
    assert 2 * shard <= there <= 2 * shard + norms * 16
    assert shard <= back <= shard + norms * 16


@pytest.mark.parametrize(
    "make", [adamuon, pytest.param(muon_hyperball, marks=pytest.mark.slow), muown]
)
def test_later_norms_cost_two_reductions_in_all(make):
    params, specs, shardings = kernels(DEVICES, (64, 16), P("tp"))
    place = whole_matrices(specs, mesh=mesh())
    cost, _ = both(lambda p: make(0.02, place=p), place, params, shardings)
    kinds = sorted(c.kind for c in cost.collectives)
    assert kinds == ["all-reduce"] * 2 + ["all-to-all"] * 2
