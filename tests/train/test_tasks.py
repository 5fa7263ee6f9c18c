# SPDX-License-Identifier: Apache-2.0
"""What the trainer tells an optimizer of a step, and that it trains by it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import optimizers
from orthoptax.train import data, loop, models, tasks
from tests import zoo

SHAPE = dataclasses.replace(
    models.SHAPES["tiny"], width=16, layers=1, heads=2, length=8, batch=2, validation=1
)
BATCH = np.arange(18, dtype=np.uint8).reshape(2, 9)


def text():
    return tasks.text(SHAPE, data.split([bytes(range(200))]))


def test_all_that_is_told_is_of_one_loss():
    task, labels = text(), BATCH[:, 1:].astype(np.int32)

    @functools.partial(jax.jit, compiler_options=zoo.QUICKLY)
    def told(batch):
        params = task.initial(0)
        value, grads = jax.value_and_grad(task.loss)(params, batch)
        extra = task.extra(batch, value)
        logits = extra["logits_fn"](params)
        nll, count = extra["nll_fn"](logits, labels)
        drawn = extra["sample_fn"](jax.random.key(0), logits)
        values = [extra["value"], extra["obj_fn"](params), extra["value_fn"](params)]
        return grads, extra["grad_fn"](params), [value, *values, nll], count, drawn

    grads, again, values, count, drawn = told(jnp.asarray(BATCH))
    zoo.assert_close(again, grads)
    np.testing.assert_allclose(values, values[0], rtol=1e-5)
    assert int(count) == labels.size
    assert drawn.shape == labels.shape


@pytest.mark.slow  # 90 seconds
@pytest.mark.parametrize("name", ["adahessian", "sophia_g", "sophia_h", "oasis"])
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
