# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits of 8x8 pixels, from scikit-learn's own files, and a perceptron.

up/{kernel,bias}     (64, width)        mix/{kernel,bias}  (width, width)
norm/scale           (width,)           head/{kernel,bias} (width, 10)
"""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from orthoptax.train.config import UsageError
from orthoptax.train.tasks import Task

PIXELS, CLASSES, WHITE = 64, 10, 16
WIDTH, BATCH = 64, 60
EVERY = 5  # each fifth example validates: 360 of 1797, six whole batches


class Digits(NamedTuple):
    """Rows of 64 pixels and the label; the part to train on, and the other."""

    train: np.ndarray
    validation: np.ndarray

    @property
    def sha256(self) -> str:
        return hashlib.sha256(
            self.train.tobytes() + self.validation.tobytes()
        ).hexdigest()


def read() -> Digits:
    """The examples, as uint8. Raises UsageError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError(
            "the digits come with scikit-learn, which is not installed",
            "the extra 'bench'",
            "Run pip install 'orthoptax[bench]', or choose --tasks bytes",
        ) from error
    found: Any = load_digits()
    rows = np.column_stack([found.data, found.target]).astype(np.uint8)
    held = np.arange(len(rows)) % EVERY == 0
    return Digits(rows[~held], rows[held])


class Perceptron(nnx.Module):
    """Maps (batch, 64) pixels to (batch, 10) logits."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(PIXELS, WIDTH, rngs=rngs)
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.mix = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        x = self.norm(nnx.gelu(self.up(2 * pixels / WHITE - 1)))
        return self.head(nnx.gelu(self.mix(x)))


def task(digits: Digits) -> Task:
    """The perceptron on the digits; losses are nats an example."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Perceptron(rngs=nnx.Rngs(0))))

    def initial(seed: jax.typing.ArrayLike) -> optax.Params:
        model = Perceptron(rngs=nnx.Rngs(jax.random.key(seed)))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def logits(params: Any, rows: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(rows[:, :-1].astype(jnp.float32))

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        labels = rows[:, -1].astype(jnp.int32)
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            logits(params, rows), labels
        ).mean()

    def draw(seed: int, step: int) -> np.ndarray:
        rows = np.random.default_rng((seed, step)).choice(len(digits.train), BATCH)
        return digits.train[rows]

    validation = digits.validation.reshape(-1, BATCH, PIXELS + 1)
    return Task(initial, loss, draw, validation, logits)
