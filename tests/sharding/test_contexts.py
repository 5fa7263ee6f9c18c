# SPDX-License-Identifier: Apache-2.0
"""The sharded step is the local step, wherever it runs and however leaves are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from orthoptax import normuon, on_matrices
from orthoptax.sharding import whole_matrices
from tests import zoo
from tests.sharding import steps
from tests.sharding.steps import CUTS, LAYERS, PAIRS, RATE


def momenta(state):
    """The momenta of Muon's and NorMuon's matrices."""
    return state.matrix[0].momentum


def row_state(state):
    """NorMuon's number a row, by leaf name."""
    return state.matrix[1].links[1].second_moment


def row_specs(specs):
    """Where rows, the second axis of a kernel (in, out), are; all state beside them."""
    named = jax.tree_util.tree_flatten_with_path(specs)[0]
    cut = {jax.tree_util.keystr(p, simple=True, separator="/"): s for p, s in named}
    return {n: P(*s[1:2]) for n, s in cut.items() if n.endswith("kernel")}


def matrices(tree):
    """The kernels alone, as the momentum holds them."""
    return {
        n: {m: x for m, x in layer.items() if m != "norm"} for n, layer in tree.items()
    }


def slow(*values):
    """A case of the slow suite."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "scheme",
    ["fsdp x tp", *map(slow, sorted({*CUTS} - {"fsdp x tp"}))],
)
def test_jit_with_auto_axes(scheme):
    specs = steps.specs(scheme)
    updates, state, cut = steps.sharded("normuon", LAYERS, specs)
    steps.assert_equal((updates, state), steps.local("normuon", LAYERS))
    steps.assert_cut(updates[-1], cut)
    steps.assert_cut(momenta(state), matrices(cut))
    rows = steps.shardings(steps.mesh(), row_specs(specs))
    steps.assert_cut(row_state(state), rows)


@pytest.mark.parametrize(
    "scheme", ["mixed", *map(slow, ["fsdp", "fsdp x tp", "hsdp", "replicated"])]
)
def test_jit_with_explicit_axes_and_no_place(scheme):
    specs = steps.specs(scheme)
    updates, state, cut = steps.sharded("normuon", LAYERS, specs, explicit=True)
    steps.assert_equal((updates, state), steps.local("normuon", LAYERS))
    steps.assert_cut(updates[-1], cut)
    steps.assert_cut(momenta(state), matrices(cut))


@pytest.mark.parametrize("explicit", [slow(False), slow(True)])
def test_muon(explicit):
    specs = steps.specs("fsdp x tp")
    updates, state, cut = steps.sharded("muon", LAYERS, specs, explicit=explicit)
    steps.assert_equal((updates, state), steps.local("muon", LAYERS))
    steps.assert_cut(updates[-1], cut)
    steps.assert_cut(momenta(state), matrices(cut))


def test_init_puts_state_where_the_step_leaves_it():
    specs = steps.specs("fsdp x tp")
    where = steps.mesh()
    cut = steps.shardings(where, specs)
    params = jax.device_put(zoo.tree(0, LAYERS), cut)
    state = normuon(RATE, place=whole_matrices(specs, mesh=where)).init(params)
    steps.assert_cut(momenta(state), matrices(cut))
    steps.assert_cut(row_state(state), steps.shardings(where, row_specs(specs)))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_init_under_jit_does_the_same(kind):
    specs = steps.specs("fsdp x tp", PAIRS)
    where = steps.mesh(kind)
    cut = steps.shardings(where, specs)
    params = jax.device_put(zoo.tree(0, PAIRS), cut)
    tx = normuon(RATE, place=whole_matrices(specs, mesh=where))
    with jax.set_mesh(where):
        state = steps.jit(tx.init)(params)
    rows = steps.shardings(where, row_specs(specs))
    steps.assert_cut(row_state(state), rows)
    steps.assert_cut(momenta(state), matrices(cut))


@pytest.mark.parametrize(
    ("scheme", "check_vma"),
    [
        ("fsdp x tp", True),
        ("mixed", False),
        slow("fsdp x tp", False),
        slow("mixed", True),
        slow("hsdp", False),
        slow("hsdp", True),
        slow("replicated", False),
        slow("replicated", True),
    ],
)
def test_inside_shard_map_over_all_axes(scheme, check_vma):
    specs = steps.specs(scheme, PAIRS)
    results = steps.inside("normuon", PAIRS, specs, check_vma=check_vma)
    steps.assert_equal(results, steps.local("normuon", PAIRS))


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10),
    reason="jax 0.8 and 0.9 cannot lower axis_index in a shard_map inside another",
)
@pytest.mark.parametrize("check_vma", [slow(False), slow(True)])
def test_inside_shard_map_over_the_other_axis(check_vma):
    """Data parallel by the user's shard_map, cut over an axis that jit has."""
    specs, where = steps.specs("hsdp", PAIRS), steps.mesh()
    cut = steps.shardings(where, specs)
    tx = steps.made("normuon", place=whole_matrices(specs))
    mapped = lambda fn: jax.shard_map(
        fn,
        mesh=where,
        in_specs=P(),
        out_specs=P(),
        axis_names={"a"},
        check_vma=check_vma,
    )
    params = jax.device_put(zoo.tree(0, PAIRS), cut)
    grads = [jax.device_put(g, cut) for g in steps.gradients(PAIRS, np.float32)]
    state = steps.jit(mapped(tx.init))(params)
    results = steps.take(tx, params, grads, wrap=mapped, start=state)
    steps.assert_equal(results, steps.local("normuon", PAIRS))
    steps.assert_cut(results[0][-1], cut)


@pytest.mark.slow
@pytest.mark.parametrize("check_vma", [False, True])
def test_inside_shard_map_over_the_axis_that_cuts(check_vma):
    """The axis that the user's shard_map leaves to jit cuts nothing."""
    specs = steps.specs("hsdp, other axis", PAIRS)
    results = steps.inside("normuon", PAIRS, specs, check_vma=check_vma, axes=["a"])
    steps.assert_equal(results, steps.local("normuon", PAIRS))


def test_pmap():
    tx = steps.made("normuon", place=whole_matrices(axes=("i",)))
    every = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)

    def step(grads, params):
        return tx.update(grads, tx.init(params), params)[0]

    mapped = jax.pmap(step, axis_name="i")
    updates = mapped(every(zoo.tree(1, PAIRS)), every(zoo.tree(0, PAIRS)))
    first = steps.local("normuon", PAIRS)[0][0]
    for device in range(8):
        zoo.assert_close(jax.tree.map(lambda x, d=device: x[d], updates), first)


def test_transport_rounds_updates_alone():
    specs = steps.specs("fsdp x tp", PAIRS)
    updates, state, _ = steps.sharded("muon", PAIRS, specs, transport=jnp.bfloat16)
    theirs, kept = steps.local("muon", PAIRS)
    zoo.assert_close(jax.device_get(momenta(state)), momenta(kept), 1e-6)
    # Of a kernel whose condition is small, so that rounding it does not grow.
    ours, exact = (x[0]["layer_0"]["up"]["kernel"] for x in (updates, theirs))
    far = np.abs(np.asarray(ours) - exact).max() / np.abs(exact).max()
    assert 1e-3 < far < zoo.TOLERANCES["bfloat16"]


def test_float64(x64):
    specs = steps.specs("fsdp x tp", PAIRS)
    updates, state, _ = steps.sharded("muon", PAIRS, specs, np.float64)
    steps.assert_equal((updates, state), steps.local("muon", PAIRS, np.float64))
    assert updates[-1]["layer_0"]["up"]["kernel"].dtype == np.float64


def test_extra_arguments_reach_links_under_a_place():
    """One that a link cannot do without is there when the exchange is planned, too."""
    specs, where = steps.specs("fsdp x tp", PAIRS), steps.mesh()
    init = lambda params: optax.EmptyState()

    def update(updates, state, params=None, *, factor, **extra):
        return jax.tree.map(lambda u: factor * u, updates), state

    link = optax.GradientTransformationExtraArgs(init, update)
    tx = on_matrices(link, place=whole_matrices(specs, mesh=where))
    params = zoo.tree(0, PAIRS)
    cut = jax.device_put(params, steps.shardings(where, specs))
    updates, _ = tx.update(cut, tx.init(cut), factor=2.0)
    matrices = lambda p: 2 * p if p.ndim == 2 else p  # the others pass through
    zoo.assert_close(updates, jax.tree.map(matrices, params))
