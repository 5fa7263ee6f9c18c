# SPDX-License-Identifier: Apache-2.0
"""A run that was cut goes on as if it had not been, under the code's configuration."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from tests import zoo
from tests.conformance.discovery import (
    FIRST_STEP,
    bends,
    is_straight,
    law,
    parts,
    sample,
)
from tests.conformance.test_programs import steps


def saved_and_restored(tree, folder):
    """A tree by way of the disk; random keys travel as their words."""
    words = lambda x: jax.random.key_data(x) if is_key(x) else x
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "step", jax.tree.map(words, tree))
        checkpointer.wait_until_finished()
        shapes = jax.eval_shape(lambda: jax.tree.map(words, tree))
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes
        )
        found = checkpointer.restore(folder / "step", target)
    keys = lambda x, y: jax.random.wrap_key_data(y) if is_key(x) else y
    return jax.tree.map(keys, tree, found)


def is_key(x):
    """Whether a leaf is a typed random key."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


@law(fast=sample)
def test_resume_is_bitwise(subject, tmp_path):
    params, grads = zoo.tree(0, zoo.SMALL), zoo.tree(3, zoo.SMALL)
    cut = steps(subject, params, [zoo.tree(s, zoo.SMALL) for s in (1, 2)])
    restored = saved_and_restored(cut, tmp_path)
    zoo.assert_same(restored, cut)
    ours = subject.update(grads, restored[1], restored[0])
    zoo.assert_same(ours, subject.update(grads, cut[1], cut[0]))


def with_two_rates(subject):
    """The updates at rates 0.1 and 0.3 of one restored state; all of it moves."""
    params, grads = zoo.tree(0, zoo.SMALL), zoo.tree(3, zoo.SMALL)
    quiet = {n: 0.0 for n in subject.numbers() if n == "weight_decay"}
    _, state = steps(subject, params, [zoo.tree(1, zoo.SMALL)])

    @jax.jit
    def update(rate):  # the state of one configuration, the numbers of another
        tx = subject.make(learning_rate=rate, **quiet)
        return tx.update(grads, state, params)[0]

    once, thrice = update(0.1), update(0.3)
    assert all(np.any(u) for u in jax.tree.leaves(once))
    return once, thrice


@law(is_straight, fast=parts)
def test_the_code_decides_after_a_restore(subject):
    once, thrice = with_two_rates(subject)
    factor = 1.0 if subject.name in FIRST_STEP else 3.0
    zoo.assert_close(thrice, optax.tree.scale(factor, once))


@law(bends, fast=parts)
def test_the_code_decides_how_a_step_bends(subject):
    once, thrice = with_two_rates(subject)
    assert all(np.any(d) for d in jax.tree.leaves(optax.tree.sub(thrice, once)))
