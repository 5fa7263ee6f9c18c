# SPDX-License-Identifier: Apache-2.0
"""One training run, from the first step to the last."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthoptax.train import checkpoint, results
from orthoptax.train.names import Constructor
from orthoptax.train.tasks import Task

WARMUP = 0.1  # of the steps, rising to the peak rate; the others fall to zero


class State(NamedTuple):
    """All that a run carries from step to step, and all that a checkpoint holds."""

    params: optax.Params
    opt_state: optax.OptState
    step: jax.Array


Step = Callable[[State, jax.Array, jax.Array], tuple[State, jax.Array]]


class Trainer(NamedTuple):
    """Compiled functions of one optimizer, for every rate and seed."""

    initial: Callable[[int], State]
    train: Callable[..., tuple[State, jax.Array]]
    evaluate: Callable[[optax.Params], jax.Array]
    task: Task
    like: State  # shapes


class Progress(NamedTuple):
    """Where a run stands; handed to the caller after every evaluation."""

    run: results.Run
    step: int
    loss: float


def rate_factor(step: jax.Array, steps: int) -> jax.Array:
    """Linear from 0 up to 1 over the warmup, then linear down to 0."""
    warmup = max(1, round(WARMUP * steps))
    return jnp.minimum((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def start(task: Task, constructor: Constructor, seed: jax.typing.ArrayLike) -> State:
    """The state before the first step; an optimizer's state does not hold its rate."""
    params = task.initial(seed)
    return State(params, constructor(0.0).init(params), jnp.zeros((), jnp.int32))


def shapes(task: Task, constructor: Constructor) -> State:
    """The state as shapes, on a mesh each with its sharding."""
    found = jax.eval_shape(lambda: start(task, constructor, 0))
    return found if task.where is None else task.where.put(found, constructor(0.0))


def _shardings(state: State) -> State | None:
    """Those of `shapes`, as jit wants them."""
    found = jax.tree.map(lambda x: x.sharding, state)
    return found if jax.tree.leaves(found) else None


def step(task: Task, constructor: Constructor, steps: int) -> Step:
    """Returns `step(state, rate, batch)`: the next state, and the loss before it."""

    def step(state: State, rate: jax.Array, batch: jax.Array):
        loss, grads = jax.value_and_grad(task.loss)(state.params, batch)
        tx = constructor(rate * rate_factor(state.step, steps))
        updates, opt_state = optax.with_extra_args_support(tx).update(
            grads, state.opt_state, state.params, **task.extra(batch, loss)
        )
        params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, state.step + 1), loss

    return step


def lower(
    task: Task, constructor: Constructor, steps: int, interval: int
) -> jax.stages.Lowered:
    """Lowers `train(state, rate, batches, count)`, up to `interval` steps in one call.

    The rate is an argument and the optimizer is built inside, so one compilation
    serves every rate and seed; `count` is one too, so it serves a shorter last call.
    """
    one = step(task, constructor, steps)

    def train(state: State, rate: jax.Array, batches: jax.Array, count: jax.Array):
        def body(i, carry):
            state, losses = carry
            state, loss = one(state, rate, batches[i])
            return state, losses.at[i].set(loss)

        losses = jnp.zeros(batches.shape[0], jnp.float32)
        return jax.lax.fori_loop(0, count, body, (state, losses))

    like, size = shapes(task, constructor), (interval, *task.batch)
    cut = None if task.where is None else task.where.batches
    out = None if task.where is None else (_shardings(like), task.where.whole)
    return jax.jit(train, donate_argnums=0, out_shardings=out).lower(
        like,
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct(size, jnp.uint8, sharding=cut),
        jax.ShapeDtypeStruct((), jnp.int32),
    )


def evaluator(task: Task) -> Callable[[optax.Params], jax.Array]:
    """Returns the loss as a function of parameters, always on the same batches."""

    @jax.jit
    def evaluate(params: optax.Params, batches: jax.Array) -> jax.Array:
        return jax.lax.map(lambda batch: task.loss(params, batch), batches).mean()

    if task.where is None:
        return lambda params: evaluate(params, jnp.asarray(task.validation))
    return lambda params: evaluate(params, task.where.share(task.validation))


def trainer(
    task: Task,
    constructor: Constructor,
    steps: int,
    interval: int,
    evaluate: Callable[[optax.Params], jax.Array],
) -> tuple[Trainer, float]:
    """Compiles the training of one optimizer; returns it and the seconds it took."""
    began = time.perf_counter()
    train: Callable[..., Any] = lower(task, constructor, steps, interval).compile()
    seconds = time.perf_counter() - began
    like = shapes(task, constructor)
    first = lambda seed: start(task, constructor, seed)
    initial = jax.jit(first, out_shardings=_shardings(like))
    return Trainer(initial, train, evaluate, task, like), seconds


def train(
    run: results.Run,
    trainer: Trainer,
    folder: Path,
    steps: int,
    interval: int,
    report: Callable[[Progress], None],
) -> None:
    """Trains from the last checkpoint, or the start, to the end or to divergence.

    Every interval is recorded and then checkpointed, in this order: what a checkpoint
    says was done has been recorded.
    """
    state = checkpoint.restore(folder, run, trainer.like)
    if state is None:
        state = trainer.initial(run.seed)
        loss = float(trainer.evaluate(state.params))
        results.record(folder, results.row(run, 0, None, loss, None), seconds=0.0)
    task, rate = trainer.task, np.float32(run.learning_rate)
    share = jnp.asarray if task.where is None else task.where.share

    for begin in range(int(state.step), steps, interval):
        end = min(begin + interval, steps)
        batches = np.zeros((interval, *task.batch), np.uint8)
        for step in range(begin, end):
            batches[step - begin] = task.draw(run.seed, step)

        began = time.perf_counter()
        count = np.int32(end - begin)
        state, losses = trainer.train(state, rate, share(batches), count)
        losses = np.asarray(losses)[: end - begin]  # waits for the device
        seconds = time.perf_counter() - began

        loss = float(trainer.evaluate(state.params))
        bad = np.flatnonzero(~np.isfinite(losses))
        diverged = begin + int(bad[0]) + 1 if bad.size else None
        if diverged is None and not math.isfinite(loss):
            diverged = end
        train_loss = float(np.mean(losses, dtype=np.float64))
        row = results.row(run, end, train_loss, loss, diverged)
        results.record(folder, row, seconds)
        report(Progress(run, end, loss))
        if diverged is not None:
            break
        if end < steps:
            checkpoint.save(folder, run, state)
    checkpoint.forget(folder, run)
