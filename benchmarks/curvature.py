# SPDX-License-Identifier: Apache-2.0
"""What curvature costs, in gradients: an estimate, and a step that makes one at times.

The model is a byte-level transformer. An estimate is one call of an estimator, a step
the gradient, the update and what the clock asks for; everything is compiled beforehand,
states are donated. optax.contrib.sophia takes its turn in the same run.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _report import Options, Record, doing, main, record, side_by_side

from orthoptax.curvature import gauss_newton_bartlett, hutchinson
from orthoptax.optimizers import adahessian, oasis, sophia_g, sophia_h
from orthoptax.train import models
from orthoptax.train.tasks import Task, mean_nll

RATE = 1e-4


@dataclasses.dataclass
class Curvature(Options):
    layers: int | None = None
    """Of the transformer; None: 4, with --quick 2."""
    width: int | None = None
    """Of its layers; None: 256, with --quick 64."""
    length: int | None = None
    """Bytes of a window; None: 128, with --quick 32."""
    batch: int = 8
    """Windows."""
    steps: int | None = None
    """Steps timed together, so that a clock of ten is met; None: 10."""
    repeats: int = 3
    """How often each is timed, in turn."""


def task(options: Curvature) -> tuple[Task, jax.Array]:
    """The model and one batch of random bytes."""
    small = options.quick
    shape = models.Shape(
        width=options.width or (64 if small else 256),
        layers=options.layers or (2 if small else 4),
        heads=4,
        length=options.length or (32 if small else 128),
        batch=options.batch,
    )
    rng = np.random.default_rng(0)
    rows = (1, shape.batch, shape.length + 1)
    batches = rng.integers(256, size=rows, dtype=np.uint8)
    loss, logits = models.loss_function(shape), models.logits_function(shape)
    initial = functools.partial(models.initial, shape)
    draw = lambda seed, step: batches[0]
    return Task(initial, loss, draw, batches, logits), jnp.asarray(batches[0])


class Steps:
    """Some steps of an optimizer in one program; every call goes on from the last."""

    def __init__(self, tx: Any, task: Task, batch: jax.Array, count: int):
        tx = optax.with_extra_args_support(tx)

        def steps(params: Any, state: Any, batch: jax.Array) -> Any:
            def step(carry: Any, _: None) -> tuple[Any, None]:
                params, state = carry
                value, grads = jax.value_and_grad(task.loss)(params, batch)
                extra = task.extra(batch, value)
                updates, state = tx.update(grads, state, params, **extra)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, state), length=count)[0]

        params = task.initial(0)
        self.at, self.batch = (params, tx.init(params)), batch
        lowered = jax.jit(steps, donate_argnums=(0, 1)).lower(*self.at, batch)
        self.steps = lowered.compile()

    def __call__(self) -> Any:
        self.at = self.steps(*self.at, self.batch)
        return self.at


def estimate(estimator: Any, task: Task, batch: jax.Array) -> Callable[[], Any]:
    """One estimate, compiled."""
    params = task.initial(0)

    def run(params: Any, batch: jax.Array) -> Any:
        state, key = estimator.init(params), jax.random.key(0)
        extra = {**task.extra(batch, 0.0), "nll_fn": mean_nll}
        return estimator.estimate(state, params, None, jnp.zeros((), int), key, **extra)

    compiled = jax.jit(run).lower(params, batch).compile()
    return lambda: compiled(params, batch)


def run(options: Curvature) -> list[Record]:
    model, batch = task(options)
    params, steps = model.initial(0), options.steps or 10
    gradient = jax.jit(jax.grad(model.loss)).lower(params, batch).compile()
    estimators = {
        "hutchinson": hutchinson(),
        "hutchinson, 4 probes": hutchinson(4),
        "gauss_newton_bartlett": gauss_newton_bartlett(),
    }
    optimizers = {
        "adahessian, every step": adahessian(RATE),
        "oasis, every step": oasis(RATE, estimator=hutchinson()),
        "sophia_g, every 10": sophia_g(RATE, start=0),
        "sophia_h, every 10": sophia_h(RATE),
        "optax.contrib.sophia, every 10": optax.contrib.sophia(RATE),
        "optax.adamw": optax.adamw(RATE),
    }
    timed: dict[str, Callable[[], Any]] = {"gradient": lambda: gradient(params, batch)}
    for name, estimator in estimators.items():
        with doing(f"{name}: compile"):
            timed[name] = estimate(estimator, model, batch)
    for name, tx in optimizers.items():
        with doing(f"{name}: compile, {steps} steps"):
            timed[name] = Steps(tx, model, batch, steps)
    with doing(f"{options.repeats} turns of each, and one not counted"):
        clocks = side_by_side(options.repeats, *timed.values())
    wall = {n: 1e3 * c.wall for n, c in zip(timed, clocks, strict=True)}
    one = wall["gradient"]
    theirs = wall["optax.contrib.sophia, every 10"] / steps
    ours = wall["sophia_h, every 10"] / steps

    def against(what: str, ms: float) -> Record:
        return record("curvature", f"{what} against a gradient", ms, one, "ms")

    last = "sophia_h against optax.contrib.sophia: a step"
    return [
        *(against(f"{name}: an estimate", wall[name]) for name in estimators),
        *(against(f"{name}: a step", wall[name] / steps) for name in optimizers),
        record("curvature", last, ours, theirs, "ms"),
    ]


if __name__ == "__main__":
    main(run, Curvature)
