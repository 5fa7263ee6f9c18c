# SPDX-License-Identifier: Apache-2.0
"""What `replicate.py` repeats: published claims, and the small tasks they are put to.

Leaves that are no matrices go to AdamW in all rows; where a method's own scale is not
AdamW's, at a fixed fraction of its rate, the ratio of the two middles.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from orthoptax.matrix import JORDAN, newton_schulz
from orthoptax.optimizers.adago import adago
from orthoptax.optimizers.auon import auon
from orthoptax.optimizers.hybrid_auon import hybrid_auon
from orthoptax.optimizers.muon import muon
from orthoptax.optimizers.normuon import normuon
from orthoptax.optimizers.turbo_muon import turbo_muon
from orthoptax.train import data, digits, models, tasks

LOWER, HIGHER, SAME = "lower", "higher", "no difference seen"


class Row(NamedTuple):
    """An optimizer, and the rate in the middle of its grid."""

    constructor: Any
    middle: float


class Claim(NamedTuple):
    """What was published, and what is run to see it here.

    expected: for each of these rows, how its loss should compare with `against`.
    """

    name: str
    says: str
    task: str
    steps: int
    seeds: int
    rows: dict[str, Row]
    against: str
    expected: dict[str, str]


def adam(rate: Any) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=0.0)


ADAM, UNSCALED, SGD = 8e-3, 3e-2, 0.25  # middles of the grids, by scale of the step


def with_adam(constructor: Any, middle: float) -> Any:
    """An optimizer whose other leaves go to AdamW at its rate times ADAM/middle."""
    return lambda rate: constructor(rate, rest=adam(rate * (ADAM / middle)))


def published(constructor: Any) -> Any:
    """An optimizer with the kernel of Muon's authors, in place of `auto`."""
    return functools.partial(constructor, polar=newton_schulz())


def muon4(rate: Any) -> optax.GradientTransformation:
    """Muon with one of Jordan's five stages left out."""
    return muon(rate, polar=newton_schulz(JORDAN[:4]))


ADAGO_WINS = (
    {
        "adam": Row(adam, ADAM),
        "muon": Row(published(muon), ADAM),
        "adago": Row(with_adam(published(adago), UNSCALED), UNSCALED),
    },
    "adago",
    {"adam": HIGHER, "muon": HIGHER},
)
CLAIMS = (
    Claim(
        "adago-regression",
        "AdaGO reaches a lower loss than Muon and Adam on function regression "
        "(arXiv:2509.02981).",
        "regression",
        600,
        5,
        *ADAGO_WINS,
    ),
    Claim(
        "adago-digits",
        "AdaGO reaches a lower loss than Muon and Adam on small images "
        "(arXiv:2509.02981; CIFAR-10 there, 8x8 digits here).",
        "digits",
        400,
        5,
        *ADAGO_WINS,
    ),
    Claim(
        "normuon",
        "NorMuon is more efficient than Muon (arXiv:2510.05491; 11 % at 1.1 billion "
        "parameters there).",
        "bytes",
        250,
        3,
        {
            "adam": Row(adam, ADAM),
            "muon": Row(published(muon), ADAM),
            "normuon": Row(published(normuon), ADAM),
        },
        "muon",
        {"normuon": LOWER},
    ),
    Claim(
        "turbo-muon",
        "Turbo-Muon's four iterations are as good as Muon's five (arXiv:2512.04632).",
        "bytes",
        250,
        3,
        {
            "muon": Row(published(muon), ADAM),
            "muon4": Row(muon4, ADAM),
            "turbo_muon": Row(turbo_muon, ADAM),
        },
        "muon",
        {"turbo_muon": SAME},
    ),
    Claim(
        "auon",
        "AuON, without any product of matrices, trains but stays behind Muon; the "
        "hybrid comes close (arXiv:2509.24320).",
        "bytes",
        250,
        3,
        {
            "muon": Row(published(muon), ADAM),
            "auon": Row(with_adam(auon, SGD), SGD),
            "hybrid_auon": Row(with_adam(published(hybrid_auon), UNSCALED), UNSCALED),
        },
        "muon",
        {"auon": HIGHER, "hybrid_auon": SAME},
    ),
)


class Net(nnx.Module):
    """Maps (batch, 8) inputs to (batch, 1) outputs."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(8, 64, rngs=rngs)
        self.mix = nnx.Linear(64, 64, rngs=rngs)
        self.head = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.gelu(self.mix(nnx.gelu(self.up(x)))))


def regression() -> tasks.Task:
    """A sum of sines of eight inputs, without noise; the loss is the mean square."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Net(rngs=nnx.Rngs(0))))
    waves = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)

    def initial(seed: Any) -> Any:
        model = Net(rngs=nnx.Rngs(jax.random.key(seed)))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    inputs = lambda batch: batch.astype(jnp.float32) / 127.5 - 1
    outputs = lambda params, batch: nnx.merge(graph, params)(inputs(batch))

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        waving = jnp.sin(jnp.matmul(inputs(batch), waves))
        y = waving.sum(axis=-1, keepdims=True) / 4
        return jnp.mean(jnp.square(outputs(params, batch) - y))

    draw = lambda key: np.random.default_rng(key).integers(
        0, 256, size=(128, 8), dtype=np.uint8
    )
    held = np.stack([draw((2**31, i)) for i in range(8)])
    return tasks.Task(
        initial, loss, lambda seed, step: draw((seed, step)), held, outputs
    )


@functools.cache
def task(name: str) -> tasks.Task:
    if name == "regression":
        return regression()
    if name == "digits":
        return digits.task(digits.read())
    shape = models.SHAPES["tiny"]
    return tasks.text(shape, data.read(None))
