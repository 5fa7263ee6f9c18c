# SPDX-License-Identifier: Apache-2.0
"""Links of optax.chain, one idea each."""

from orthoptax.transforms.error_feedback import error_feedback, whole
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.scale_by_shape import (
    match_rms,
    original,
    original_last_two,
    scale_by_shape,
    spectral,
    spectral_norm,
    unscaled,
)
from orthoptax.transforms.weight_decay import (
    cautious,
    decoupled,
    independent,
    l2,
    palm,
)
from orthoptax.transforms.with_input import with_input
from orthoptax.transforms.with_statistics import with_statistics

__all__ = [
    "cautious",
    "decoupled",
    "error_feedback",
    "independent",
    "l2",
    "match_rms",
    "momentum",
    "original",
    "original_last_two",
    "orthogonalize",
    "palm",
    "scale_by_learning_rate",
    "scale_by_shape",
    "spectral",
    "spectral_norm",
    "unscaled",
    "whole",
    "with_input",
    "with_statistics",
]
