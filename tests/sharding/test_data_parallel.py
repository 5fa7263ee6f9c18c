# SPDX-License-Identifier: Apache-2.0
"""A batch cut over eight devices: the steps are those of the whole batch's loss.

Parameters are whole on every device. The caller averages the gradient and `value`; what
calls the loss itself is handed that of a device, and averages over `axis_name`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from orthoptax.curvature import hutchinson
from orthoptax.optimizers import aegd, induced_metric, mfac, oasis, sania
from orthoptax.transforms import (
    divide_by_curvature_abs_floor,
    divide_by_mean_square,
    newton_direction,
    of_log_graph,
    regularize_gradient,
    with_curvature,
)
from tests.sharding.steps import jit

STEPS = 3


def over_curvature(axis_name):
    """SANIA's direction by Hutchinson's estimate."""
    link = divide_by_curvature_abs_floor(0.9, floor=0.1)
    return with_curvature(link, hutchinson(2), axis_name=axis_name)


MAKE = {
    "aegd": lambda axis: aegd(0.1),
    "aegd, metric": lambda axis: aegd(0.1, metric=divide_by_mean_square(root=True)),
    "induced_metric": lambda axis: induced_metric(0.1),
    "induced_metric, log": lambda axis: induced_metric(0.1, metric=of_log_graph),
    "mfac": lambda axis: mfac(0.1, window=3, damping=0.1),
    "oasis": lambda axis: oasis(0.05, axis_name=axis),
    "oasis, full batch": lambda axis: oasis(0.05, full_batch=True, axis_name=axis),
    "oasis, clock": lambda axis: oasis(0.05, update_every=2, axis_name=axis),
    "sania": lambda axis: sania(1.0),
    "sania, Hutchinson": lambda axis: sania(1.0, metric=over_curvature(axis)),
    "sania, Newton": lambda axis: sania(
        1.0, metric=newton_direction(axis_name=axis, tolerance=1e-3)
    ),
    "regularize_gradient": lambda axis: optax.chain(
        regularize_gradient(0.1, axis_name=axis), optax.sgd(0.1)
    ),
}


def problem():
    """(parameters, batch of sixteen, loss of both); convex, each device has its own."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {"w": draw(4, 3) / 2, "b": draw(3)}

    def loss(params, batch):
        x, y = batch[:, :4], batch[:, 4:]
        gap = x @ params["w"] + params["b"] - y
        return jnp.mean(jnp.sum(jnp.sqrt(1 + gap**2), axis=1))

    return params, draw(16, 7), loss


def step(tx, axis=None):
    """A training step on a device's part of the batch."""
    mean = (lambda x: lax.pmean(x, axis)) if axis else lambda x: x
    vary = lambda p: jax.tree.map(lambda x: lax.pcast(x, axis, to="varying"), p)
    _, _, loss = problem()

    def step(params, state, batch, tracked=False):
        local = vary(params) if tracked else params
        value, grads = mean(jax.value_and_grad(loss)(local, batch))
        of_part = lambda p: loss(p, batch)
        told = {"value": value, "obj_fn": of_part, "grad_fn": jax.grad(of_part)}
        updates, state = tx.update(grads, state, params, **told)
        return optax.apply_updates(params, updates), state

    return step


def run(update, start, batch):
    """The parameters after every step."""
    params, _, _ = problem()
    state, seen = start(params), []
    for _ in range(STEPS):
        params, state = update(params, state, batch)
        seen.append(jax.device_get(params))
    return seen


@functools.cache
def whole(name):
    """On one device, of the whole batch."""
    tx = MAKE[name](None)
    return run(jit(step(tx)), tx.init, problem()[1])


def assert_equal(ours, name):
    """The same parameters after every step; they moved."""
    start = problem()[0]
    for t, (a, b) in enumerate(zip(ours, whole(name), strict=True)):
        for leaf in b:
            assert np.any(b[leaf] != start[leaf])
            np.testing.assert_allclose(
                a[leaf], b[leaf], rtol=2e-4, atol=2e-5, err_msg=f"{t} {leaf}"
            )


CALLING = ("sania, Newton", "regularize_gradient")  # by themselves, on each device
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n not in CALLING)) for n in MAKE]
"""In the fast suite those that no other test has inside a mapped axis."""


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_shard_map(name, check_vma):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    tx = MAKE[name]("x")
    mapped = jax.shard_map(
        functools.partial(step(tx, "x"), tracked=check_vma),
        mesh=mesh,
        in_specs=(P(), P(), P("x")),
        out_specs=P(),
        check_vma=check_vma,
    )
    assert_equal(run(jit(mapped), tx.init, problem()[1]), name)


@pytest.mark.parametrize("name", NAMES)
def test_pmap(name):
    tx = MAKE[name]("x")
    mapped = jax.pmap(step(tx, "x"), axis_name="x")
    every = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)

    def update(params, state, batch):
        moved, state = mapped(every(params), state, batch.reshape(8, 2, -1))
        moved = jax.device_get(moved)
        for x in jax.tree.leaves(moved):
            np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
        return jax.tree.map(lambda x: x[0], moved), state

    assert_equal(run(update, lambda p: every(tx.init(p)), problem()[1]), name)
