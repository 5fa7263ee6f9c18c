# SPDX-License-Identifier: Apache-2.0
"""What a step may be put into: jit, scan, cond, donation, a sharded program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests import zoo
from tests.conformance.discovery import in_float64, law, sample


def steps(subject, params, gradients):
    """Parameters and state after separate compiled steps."""
    state = subject.init(params)
    for grads in gradients:
        updates, state = subject.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@law(fast=sample)
def test_one_trace(subject):
    # `subject.update` raises if it is traced a second time.
    gradients = [zoo.tree(seed) for seed in (1, 2, 3)]
    params, state = steps(subject, zoo.tree(), gradients)
    assert zoo.types(state) == zoo.types(subject.init(params))


@in_float64
@law(fast=sample)
def test_scan_and_cond(subject):
    params = zoo.tree(shapes=zoo.SMALL)
    gradients = [zoo.tree(seed, zoo.SMALL) for seed in (1, 2, 3)]

    def body(carry, now):
        grads, wanted = now

        def step(carry):
            params, state = carry
            updates, state = subject.transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return lax.cond(wanted, step, lambda carry: carry, carry), None

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *gradients)
    wanted = jnp.asarray([True, False, True])
    carry = (params, subject.init(params))
    ours, _ = jax.jit(lambda c, x: lax.scan(body, c, x))(carry, (stacked, wanted))
    theirs = steps(subject, params, [gradients[0], gradients[2]])
    zoo.assert_close(ours, theirs)


@in_float64
@law(fast=sample)
def test_donation(subject):
    params, grads = zoo.tree(0, zoo.SMALL), zoo.tree(1, zoo.SMALL)
    expected = steps(subject, params, [grads])

    def step(params, state, grads):
        updates, state = subject.transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    donated = (params, subject.transform.init(params))
    program = jax.jit(step, donate_argnums=(0, 1), keep_unused=True)
    zoo.assert_close(program(*donated, grads), expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    # A second state is not made of the first one's buffers.
    params = zoo.tree(0, zoo.SMALL)
    again = program(params, subject.transform.init(params), grads)
    zoo.assert_close(again, expected)


@in_float64
@law(fast=sample)
def test_sharded_equals_local(subject):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    def place(leaf):
        axis = next(i for i, n in enumerate((*leaf.shape, 8)) if n % 8 == 0)
        spec = P(*[None] * axis, "x") if axis < leaf.ndim else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    params, grads = zoo.tree(0, zoo.SHARDED), zoo.tree(1, zoo.SHARDED)
    local = subject.update(grads, subject.init(params), params)
    params, grads = jax.tree.map(place, params), jax.tree.map(place, grads)
    assert len(params["tall"]["kernel"].sharding.device_set) == 8
    tx = subject.transform
    program = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))
    ours = jax.tree.map(gathered, program(grads, params))
    zoo.assert_close(ours, local)


def gathered(leaf):
    """A leaf on one device."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(np.asarray(jax.random.key_data(leaf)))
    return jnp.asarray(np.asarray(leaf))
