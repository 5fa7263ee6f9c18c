# SPDX-License-Identifier: Apache-2.0
"""Momentum that training makes: matrices that no schedule was chosen on.

The models are trained by `muon` in its classic form, as `compare` trains them. An
optimizer without a polar function and without factors has the same state, and makes of
it the matrix that `muon` would hand to its polar function.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax

from orthoptax.layout.describe import describe
from orthoptax.layout.names import named_leaves
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.optimizers.muon import muon
from orthoptax.train import data, digits, loop, models, tasks

LENGTH = 250  # steps of a run of `compare`, over which its rate rises and falls

TASKS: dict[str, Callable[[], tasks.Task]] = {
    "bytes": lambda: tasks.text(models.SHAPES["tiny"], data.read(None)),
    "wide": lambda: tasks.text(models.SHAPES["wide"], data.read(None)),
    "digits": lambda: digits.task(digits.read()),
}
"""The transformers of `compare`, width 64 and 256; a perceptron, width 64."""
RATES = {"bytes": 2e-2, "wide": 5e-3, "digits": 5e-3}
"""Those of the least loss after 250 steps, on a grid of factor 2."""

trained = functools.partial(muon, polar=newton_schulz())
momentum = functools.partial(
    muon, polar=lambda x: x, shape_rule=lambda *_: 1.0, rest=optax.adamw(1.0)
)
"""Its update at rate 1 is minus the Nesterov momentum of a matrix."""


def recorded(
    task: str = "bytes", steps: int = 100, seed: int = 0
) -> dict[str, np.ndarray]:
    """What `muon` hands to its polar function at the last of so many steps.

    Args:
      task: a key of `TASKS`.
      steps: of training; the rate is that of a run of at least 250.
      seed: of the initial weights and the batches.
    Returns: {name of the leaf, and place in its stack: (rows, cols) float32 array},
      rows no more than columns. The text is the Python standard library's, so another
      Python gives other numbers; one Python on one machine gives the same ones.
    """
    return recordings(task, (steps,), seed)[steps]


@functools.cache
def recordings(
    task: str, every: tuple[int, ...], seed: int = 0
) -> dict[int, dict[str, np.ndarray]]:
    """{steps: what `recorded` returns}, all from one run; `every` ascends."""
    model = TASKS[task]()
    state = loop.start(model, trained, seed)
    train = jax.jit(loop.step(model, trained, max(LENGTH, *every)), donate_argnums=0)

    @jax.jit
    def given(state: loop.State, batch: jax.Array) -> optax.Updates:
        grads = jax.grad(model.loss)(state.params, batch)
        updates, _ = momentum(1.0).update(grads, state.opt_state, state.params)
        return updates

    found = {}
    for step in range(1, every[-1] + 1):
        batch = model.draw(seed, step - 1)
        if step in every:
            found[step] = _matrices(state.params, given(state, batch))
        state, _ = train(state, RATES[task], batch)
    return found


def _matrices(params: optax.Params, updates: optax.Updates) -> dict[str, np.ndarray]:
    """Minus the updates of the matrices, each of a stack by itself."""
    leaves, found = named_leaves(updates), {}
    for row in describe(params).rows:
        for stack in row.view.split(leaves[row.name]) if row.view else ():
            *lead, rows, cols = stack.shape
            each = np.asarray(stack).reshape(-1, rows, cols)
            for place, x in zip(np.ndindex(*lead), each, strict=True):
                name = "/".join([row.name, *map(str, place)])
                found[name] = -x.T if rows > cols else -x
    return found
