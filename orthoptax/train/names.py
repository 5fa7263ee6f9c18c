# SPDX-License-Identifier: Apache-2.0
"""Command-line name to optimizer constructor.

Every name in `orthoptax.optimizers.__all__` is found here by itself, and called with
a learning rate alone.
"""

from collections.abc import Callable, Sequence

import optax

from orthoptax import optimizers
from orthoptax.layout.dimension_numbers import to_optax
from orthoptax.layout.tables import flax
from orthoptax.train.config import unknown

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
    """The constructor of every name, in the order given.

    Raises: UsageError for a name that is neither stock nor public in
      `orthoptax.optimizers`.
    """
    known = dict(STOCK)
    for name in optimizers.__all__:
        known.setdefault(name, getattr(optimizers, name))
    for name in names:
        if name not in known:
            raise unknown("optimizer", name, known, "--optimizers")
    return {name: known[name] for name in names}
