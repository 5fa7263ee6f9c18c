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
      logits: of (params, batch), the model's outputs; the last axis is the classes.
      where: the mesh it is on, a `meshes.Where`; None: one device.
    """

    initial: Callable[[ArrayLike], optax.Params]
    loss: Callable[[optax.Params, jax.Array], jax.Array]
    draw: Callable[[int, int], np.ndarray]
    validation: np.ndarray
    logits: Callable[[optax.Params, jax.Array], jax.Array]
    where: Any = None

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of a batch."""
        return self.validation.shape[1:]

    def extra(self, batch: jax.Array, value: ArrayLike) -> dict[str, Any]:
        """What `update` may want to know of a step: see `orthoptax.curvature`.

        Args:
          batch: of the step.
          value: its loss.
        """
        obj_fn = lambda params: self.loss(params, batch)
        return {
            "value": value,
            "obj_fn": obj_fn,
            "value_fn": obj_fn,
            "grad_fn": jax.grad(obj_fn),
            "logits_fn": lambda params: self.logits(params, batch),
            "sample_fn": jax.random.categorical,
            "nll_fn": mean_nll,
        }


def mean_nll(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, int]:
    """(mean negative log-likelihood of integer labels, how many they are)."""
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return nll.mean(), nll.size


def text(shape: models.Shape, corpus: data.Corpus) -> Task:
    """The transformer on windows of a corpus; losses are nats a byte."""
    count, size = shape.validation * shape.batch, (shape.batch, shape.length)
    windows = data.windows(corpus.validation, count, shape.length)
    return Task(
        lambda seed: models.initial(shape, seed),
        models.loss_function(shape),
        lambda seed, step: data.batch(corpus.train, seed, step, size),
        windows.reshape(shape.validation, shape.batch, shape.length + 1),
        models.logits_function(shape),
    )


def state_bytes(
    task: Task, constructor: Callable[..., optax.GradientTransformation]
) -> int:
    """The size of an optimizer's state, without making it.

    One update is traced as well: what an optimizer cannot do is then known by now.
    """

    def step(rate: jax.Array, batch: jax.Array) -> optax.OptState:
        params, tx = task.initial(0), constructor(rate)
        tx = optax.with_extra_args_support(tx)
        extra = task.extra(batch, rate)
        return tx.update(params, tx.init(params), params, **extra)[1]

    state = jax.eval_shape(
        step,
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct(task.batch, jnp.uint8),
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
