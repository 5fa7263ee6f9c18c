# SPDX-License-Identifier: Apache-2.0
"""What the trainer tells an optimizer of a step, and that it trains by it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import optimizers
from orthoptax.train import data, loop, models, tasks

SHAPE = dataclasses.replace(
    models.SHAPES["tiny"], width=16, layers=1, heads=2, length=8, batch=2, validation=1
)
BATCH = np.arange(18, dtype=np.uint8).reshape(2, 9)


def text():
    return tasks.text(SHAPE, data.split([bytes(range(200))]))


def test_all_that_is_told_is_of_one_loss():
    task = text()
    params, batch = task.initial(0), jnp.asarray(BATCH)
    value, grads = jax.value_and_grad(task.loss)(params, batch)
    extra = task.extra(batch, value)
    assert extra["value"] is value
    np.testing.assert_array_equal(extra["obj_fn"](params), value)
    jax.tree.map(np.testing.assert_array_equal, extra["grad_fn"](params), grads)
    logits, labels = extra["logits_fn"](params), BATCH[:, 1:].astype(np.int32)
    nll, count = extra["nll_fn"](logits, labels)
    np.testing.assert_allclose(nll, value, rtol=1e-6)
    assert count == labels.size
    drawn = extra["sample_fn"](jax.random.key(0), logits)
    assert drawn.shape == labels.shape


@pytest.mark.parametrize(
    "name", ["sophia_g", *[pytest.param(n, marks=pytest.mark.slow)
                           for n in ("adahessian", "sophia_h", "oasis")]]
)  # fmt: skip
def test_curvature_trains(name):
    task, steps = text(), 24
    make = getattr(optimizers, name)
    trainer, _ = loop.trainer(task, make, steps, steps, loop.evaluator(task))
    batches = np.broadcast_to(BATCH, (steps, *BATCH.shape))
    rate = jnp.float32(0.02)
    state, losses = trainer.train(trainer.initial(0), rate, batches, jnp.int32(steps))
    assert losses[-1] < 0.8 * losses[0]
    assert int(state.opt_state.count) == steps
    assert int(state.opt_state.skipped) == 0
    assert tasks.state_bytes(task, make) > 0
