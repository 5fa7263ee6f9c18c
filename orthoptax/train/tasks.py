# SPDX-License-Identifier: Apache-2.0
"""What is trained, on what: all of a run that its optimizer has no part in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from orthoptax.train import data, models


class Task(NamedTuple):
    """A model, its loss, and the batches it is trained and judged on.

    Args:
      initial: the initial weights of a seed.
      loss: of (params, batch), a scalar.
      draw: the batch of (seed, step), a function of these alone.
      validation: all batches to validate on, (count, *shape of a batch), of uint8.
      where: the mesh it is on, a `meshes.Where`; None: one device.
    """

    initial: Callable[[ArrayLike], optax.Params]
    loss: Callable[[optax.Params, jax.Array], jax.Array]
    draw: Callable[[int, int], np.ndarray]
    validation: np.ndarray
    where: Any = None

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of a batch."""
        return self.validation.shape[1:]


def text(shape: models.Shape, corpus: data.Corpus) -> Task:
    """The transformer on windows of a corpus; losses are nats a byte."""
    count, size = shape.validation * shape.batch, (shape.batch, shape.length)
    windows = data.windows(corpus.validation, count, shape.length)
    return Task(
        lambda seed: models.initial(shape, seed),
        models.loss_function(shape),
        lambda seed, step: data.batch(corpus.train, seed, step, size),
        windows.reshape(shape.validation, shape.batch, shape.length + 1),
    )


def state_bytes(
    task: Task, constructor: Callable[..., optax.GradientTransformation]
) -> int:
    """The size of an optimizer's state, without making it.

    One update is traced as well: what an optimizer cannot do is then known by now.
    """

    def step(rate: jax.Array) -> optax.OptState:
        params, tx = task.initial(0), constructor(rate)
        return tx.update(params, tx.init(params), params)[1]

    state = jax.eval_shape(step, jax.ShapeDtypeStruct((), jnp.float32))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
