# SPDX-License-Identifier: Apache-2.0
"""An estimate on eight devices is that of the whole batch's loss, in every context."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax.curvature import hutchinson, normal, rademacher
from orthoptax.curvature.probes import draw
from orthoptax.transforms import with_curvature
from tests.sharding.steps import jit

SHAPES = {"up": (4, 8), "bias": (8,)}
STEPS = 3  # due, idle, due


def reveal():
    """A link whose update is the estimate."""

    def update(updates, state, params=None, *, hessian_diag, **extra):
        return hessian_diag, state

    init = lambda params: optax.EmptyState()
    return optax.GradientTransformationExtraArgs(init, update)


def problem():
    """(parameters, batch of sixteen, loss of both), its Hessian far from diagonal."""
    rng = np.random.default_rng(0)
    params = {
        n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in SHAPES.items()
    }
    batch = jnp.asarray(rng.normal(size=(16, 4)), jnp.float32)

    def loss(params, batch):
        return jnp.mean(
            jnp.sum(jnp.tanh(batch @ params["up"] + params["bias"]), 1) ** 4
        )

    return params, batch, loss


def run(update, init, batch):
    """Every step's estimate and the last state."""
    params, _, _ = problem()
    state, seen = init(params), []
    for _ in range(STEPS):
        updates, state = update(params, state, batch)
        seen.append(jax.device_get(updates))
    return seen, jax.device_get((state.count, state.skipped, state.estimator))


def stepping(loss, **arguments):
    """(update of parameters, state and batch, transform)."""
    estimator = arguments.pop("estimator", None) or hutchinson(2)
    tx = with_curvature(reveal(), estimator, update_every=2, **arguments)

    def update(params, state, batch):
        grads = jax.tree.map(jnp.zeros_like, params)
        return tx.update(grads, state, params, obj_fn=lambda p: loss(p, batch))

    return update, tx


@functools.cache
def whole():
    """On one device, of the whole batch."""
    _, batch, loss = problem()
    update, tx = stepping(loss)
    return run(jit(update), tx.init, batch)


def assert_equal(ours):
    """The same estimates and the same state."""
    (seen, state), (wanted, kept) = ours, whole()
    for step, (a, b) in enumerate(zip(seen, wanted, strict=True)):
        for name in b:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=2e-4,
                                       err_msg=f"{step} {name}")  # fmt: skip
    assert jax.tree.map(int, state) == jax.tree.map(int, kept)


@pytest.mark.parametrize("cut", [pytest.param(P(), marks=pytest.mark.slow), P("x")])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_jit(kind, cut):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)
    _, batch, loss = problem()
    update, tx = stepping(loss)
    place = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
    specs = {"up": cut, "bias": P()}

    def start(params):
        return jit(tx.init)({n: place(x, specs[n]) for n, x in params.items()})

    def cut_update(params, state, batch):
        cut = {n: place(x, specs[n]) for n, x in params.items()}
        with jax.set_mesh(mesh):
            return compiled(cut, state, place(batch, P("y")))

    compiled = jit(update)
    assert_equal(run(cut_update, start, batch))


def test_a_probe_lies_where_its_leaf_lies():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    leaf = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, P("x")))
    seen = []

    def drawn(leaf):
        z = draw(rademacher, jax.random.key(0), {"w": leaf}, 0, 0)["w"]
        seen.extend([jax.typeof(z).sharding.spec, jax.typeof(leaf).sharding.spec])
        return z

    with jax.set_mesh(mesh):
        jax.jit(drawn).trace(leaf)
    assert seen == [P("x", None)] * 2


@pytest.mark.parametrize("check_vma", [True, False])
def test_parts_of_a_leaf_have_probes_of_their_own(check_vma):
    """Where `shard_map` tracks it: else all parts look alike, and nothing can tell."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    key = lambda: jax.random.key(0)
    drawn = lambda leaf: draw(normal, key(), {"w": leaf}, 0, 0)["w"]
    mapped = jax.shard_map(
        drawn, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=check_vma
    )
    z = np.asarray(jit(mapped)(jnp.ones((8, 2))))
    assert len(np.unique(z, axis=0)) == (8 if check_vma else 1)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    _, batch, loss = problem()
    update, tx = stepping(loss, axis_name="x")
    mapped = jax.shard_map(
        update,
        mesh=mesh,
        in_specs=(P(), P(), P("x")),
        out_specs=P(),
        check_vma=check_vma,
    )
    assert_equal(run(jit(mapped), tx.init, batch))


def test_pmap():
    _, batch, loss = problem()
    update, tx = stepping(loss, axis_name="x")
    mapped = jax.pmap(update, axis_name="x")
    every = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    same = lambda x: np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))

    def on_every(params, state, batch):
        updates, state = mapped(every(params), state, batch.reshape(8, 2, -1))
        jax.tree.map(same, jax.device_get((updates, jax.random.key_data(state.key))))
        return first(updates), state

    seen, state = run(on_every, lambda p: every(tx.init(p)), batch)
    assert_equal((seen, first(state)))
