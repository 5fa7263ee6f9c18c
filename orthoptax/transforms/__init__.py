# SPDX-License-Identifier: Apache-2.0
"""Links of optax.chain, one idea each."""

from orthoptax.transforms.adagrad_norm import adagrad_norm
from orthoptax.transforms.choices import (
    largest_slices,
    largest_slices_by_shard,
    random_slices,
)
from orthoptax.transforms.divide_by_curvature_abs_floor import (
    divide_by_curvature_abs_floor,
)
from orthoptax.transforms.divide_by_curvature_mean import divide_by_curvature_mean
from orthoptax.transforms.divide_by_curvature_rms import divide_by_curvature_rms
from orthoptax.transforms.divide_by_norm import divide_by_norm, divide_columns
from orthoptax.transforms.divide_by_square import (
    divide_by_mean_square,
    divide_by_sum_of_squares,
)
from orthoptax.transforms.energy_scale import energy_scale
from orthoptax.transforms.energy_step import energy_step
from orthoptax.transforms.error_feedback import error_feedback, whole
from orthoptax.transforms.induced_metric import (
    of_graph,
    of_log_graph,
    scale_by_induced_metric,
)
from orthoptax.transforms.inverse_fisher import inverse_fisher
from orthoptax.transforms.keep_norm import keep_norm
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.lmo import lmo, sign_or_rms
from orthoptax.transforms.low_rank import low_rank
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.newton_direction import newton_direction
from orthoptax.transforms.normalize_neurons import normalize_neurons
from orthoptax.transforms.one_sided import one_sided
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.polyak_step import polyak_step
from orthoptax.transforms.precondition_polynomial import precondition_polynomial
from orthoptax.transforms.project_weights import project_weights
from orthoptax.transforms.regularize_gradient import (
    backward_difference,
    exact_product,
    forward_difference,
    regularize_gradient,
)
from orthoptax.transforms.relative_update import relative_update
from orthoptax.transforms.rms_align import rms_align
from orthoptax.transforms.scale_by_adam import scale_by_adam
from orthoptax.transforms.scale_by_input import (
    scale_by_dual_norm,
    scale_by_input_norm,
)
from orthoptax.transforms.scale_by_shape import (
    match_rms,
    original,
    original_last_two,
    scale_by_shape,
    spectral,
    spectral_norm,
    unscaled,
)
from orthoptax.transforms.scaled_gd import Factors, scaled_gd
from orthoptax.transforms.secant_step import secant_step
from orthoptax.transforms.second_moment import second_moment
from orthoptax.transforms.sign import sign
from orthoptax.transforms.soft_threshold import soft_threshold
from orthoptax.transforms.submatrix import submatrix
from orthoptax.transforms.weight_decay import (
    cautious,
    decay_after,
    decoupled,
    independent,
    l2,
    palm,
)
from orthoptax.transforms.weight_norm import weight_norm
from orthoptax.transforms.with_curvature import with_curvature
from orthoptax.transforms.with_input import with_input
from orthoptax.transforms.with_statistics import with_statistics

__all__ = [
    "Factors",
    "adagrad_norm",
    "backward_difference",
    "cautious",
    "decay_after",
    "decoupled",
    "divide_by_curvature_abs_floor",
    "divide_by_curvature_mean",
    "divide_by_curvature_rms",
    "divide_by_mean_square",
    "divide_by_norm",
    "divide_by_sum_of_squares",
    "divide_columns",
    "energy_scale",
    "energy_step",
    "error_feedback",
    "exact_product",
    "forward_difference",
    "independent",
    "inverse_fisher",
    "keep_norm",
    "l2",
    "largest_slices",
    "largest_slices_by_shard",
    "lmo",
    "low_rank",
    "match_rms",
    "momentum",
    "newton_direction",
    "normalize_neurons",
    "of_graph",
    "of_log_graph",
    "one_sided",
    "original",
    "original_last_two",
    "orthogonalize",
    "palm",
    "polyak_step",
    "precondition_polynomial",
    "project_weights",
    "random_slices",
    "regularize_gradient",
    "relative_update",
    "rms_align",
    "scale_by_adam",
    "scale_by_dual_norm",
    "scale_by_induced_metric",
    "scale_by_input_norm",
    "scale_by_learning_rate",
    "scale_by_shape",
    "scaled_gd",
    "secant_step",
    "second_moment",
    "sign",
    "sign_or_rms",
    "soft_threshold",
    "spectral",
    "spectral_norm",
    "submatrix",
    "unscaled",
    "weight_norm",
    "whole",
    "with_curvature",
    "with_input",
    "with_statistics",
]
