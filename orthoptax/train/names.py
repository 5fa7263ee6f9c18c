# SPDX-License-Identifier: Apache-2.0
"""Command-line name to optimizer constructor.

Every name in `orthoptax.optimizers.__all__` is found here by itself, and called with
a learning rate alone. What is no name is read as a chain.
"""

from collections.abc import Callable, Sequence

import optax

from orthoptax import optimizers
from orthoptax.layout.dimension_numbers import to_optax
from orthoptax.layout.tables import flax
from orthoptax.train import vocabulary
from orthoptax.train.chains import ChainOptimizer
from orthoptax.train.config import UsageError, unknown

Constructor = Callable[..., optax.GradientTransformation]
"""constructor(learning_rate): the optimizer; the rate may be traced."""

MATCH_RMS = 0.2  # optax's `consistent_rms` at which AdamW's rates carry over; as ours


def adamw(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Optax's AdamW without weight decay, as the rest of every other row."""
    return optax.adamw(learning_rate, weight_decay=0.0)


def optax_muon(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Optax's Muon, told by our layout which axes of which leaves are matrices."""
    return optax.contrib.muon(
        learning_rate,
        consistent_rms=MATCH_RMS,
        muon_weight_dimension_numbers=lambda params: to_optax(params, flax()),
    )


def optax_muon_default(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """Optax's Muon as it routes by itself: every leaf of exactly two axes.

    So it orthogonalizes embeddings, head and stacked norm gains, and leaves the scanned
    kernels, which have three axes, to Adam.
    """
    return optax.contrib.muon(learning_rate, consistent_rms=MATCH_RMS)


STOCK: dict[str, Constructor] = {
    "adamw": adamw,
    "optax-muon": optax_muon,
    "optax-muon-default": optax_muon_default,
}


def constructors(names: Sequence[str]) -> dict[str, Constructor]:
    """The constructor of every name or chain, in the order given.

    Chains are keyed by their canonical spelling, so that spaces do not matter.

    Raises: UsageError for a name that is neither stock nor public in
      `orthoptax.optimizers`, for a chain that cannot be read, and for two that are one.
    """
    known = dict(STOCK)
    for name in optimizers.__all__:
        known.setdefault(name, getattr(optimizers, name))
    found: dict[str, Constructor] = {}
    for name in names:
        key, constructor = name, known.get(name)
        if constructor is None:
            if name.isidentifier() and name not in vocabulary.links():
                raise unknown("optimizer", name, known, "--optimizers")
            constructor = ChainOptimizer(name)
            key = str(constructor)
        if key in found:
            raise UsageError(
                f"--optimizers has {key!r} twice", "each once", "Remove one of them"
            )
        found[key] = constructor
    return found
