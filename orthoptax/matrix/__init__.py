# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on (..., m, n) arrays: polar factors, their scales and schedules."""

from orthoptax.matrix.auto import auto
from orthoptax.matrix.balls import (
    column_ball,
    frobenius_ball,
    row_ball,
    sign_ball,
    spectral_ball,
)
from orthoptax.matrix.by_shape import by_shape
from orthoptax.matrix.choose import Chosen, cheapest, cost, margin, satisfies
from orthoptax.matrix.chosen import BY_GAIN, BY_GAIN_16_BITS, OURS, OURS_16_BITS
from orthoptax.matrix.clip import clipped_decay, hard_cap, spectral_clip
from orthoptax.matrix.degree_17 import DEGREE_17, Factored, degree_17
from orthoptax.matrix.eigen import eigh
from orthoptax.matrix.exact import svd
from orthoptax.matrix.explain import Candidate, Explanation, explain
from orthoptax.matrix.gains import by_gain
from orthoptax.matrix.generate import (
    CansSchedule,
    cans,
    cans_schedule,
    composition,
    polar_express,
)
from orthoptax.matrix.gram import gram_newton_schulz
from orthoptax.matrix.gram_norms import (
    aol,
    gelfand,
    schatten,
    schatten_8,
    spectral,
)
from orthoptax.matrix.hardware import (
    HARDWARE,
    ROUNDINGS,
    Eigen,
    Hardware,
    rounding,
)
from orthoptax.matrix.inner import Inner, local
from orthoptax.matrix.inverse_fisher import (
    InverseFisher,
    inverse_fisher_diagonal,
    inverse_fisher_of,
    inverse_fisher_product,
)
from orthoptax.matrix.minimax import Minimax, minimax
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.norms import frobenius, frobenius_add, frobenius_max
from orthoptax.matrix.one_sided import one_sided_polar
from orthoptax.matrix.orientation import small_side_first
from orthoptax.matrix.over_gram import over_gram
from orthoptax.matrix.polynomial import elementary_symmetric, precondition_with
from orthoptax.matrix.projections import (
    radial_brake,
    spectral_cap,
    sphere,
    stiefel,
)
from orthoptax.matrix.qdwh import Halley, halley_weights, qdwh
from orthoptax.matrix.qr import (
    cholesky_qr,
    cholesky_qr2,
    householder_qr,
    randomized_cholesky_qr,
)
from orthoptax.matrix.restarts import (
    best_restarts,
    fewest_restarts,
    quiet_restarts,
    restart_metric,
)
from orthoptax.matrix.roots import (
    NEWTON_ROOT,
    POLAR_EXPRESS_ROOT,
    eigen_root,
    newton_schulz_root,
    polar_express_root,
)
from orthoptax.matrix.schedules import (
    CUBIC5,
    DEEPSEEK_V4,
    GEN4,
    JORDAN,
    NEMO_AOL,
    NEMO_CANS,
    POLAR_EXPRESS,
    POLAR_EXPRESS_8,
    POLAR_EXPRESS_101,
    POLAR_EXPRESS_102,
    POLAR_EXPRESS_105,
    QUINTIC,
    ROOT_BY_SHAPE,
    TURBO,
)
from orthoptax.matrix.symmetric import block_products

__all__ = [
    "BY_GAIN",
    "BY_GAIN_16_BITS",
    "CUBIC5",
    "DEEPSEEK_V4",
    "DEGREE_17",
    "GEN4",
    "HARDWARE",
    "JORDAN",
    "NEMO_AOL",
    "NEMO_CANS",
    "NEWTON_ROOT",
    "OURS",
    "OURS_16_BITS",
    "POLAR_EXPRESS",
    "POLAR_EXPRESS_8",
    "POLAR_EXPRESS_101",
    "POLAR_EXPRESS_102",
    "POLAR_EXPRESS_105",
    "POLAR_EXPRESS_ROOT",
    "QUINTIC",
    "ROOT_BY_SHAPE",
    "ROUNDINGS",
    "TURBO",
    "Candidate",
    "CansSchedule",
    "Chosen",
    "Eigen",
    "Explanation",
    "Factored",
    "Halley",
    "Hardware",
    "Inner",
    "InverseFisher",
    "Minimax",
    "aol",
    "auto",
    "best_restarts",
    "block_products",
    "by_gain",
    "by_shape",
    "cans",
    "cans_schedule",
    "cheapest",
    "cholesky_qr",
    "cholesky_qr2",
    "clipped_decay",
    "column_ball",
    "composition",
    "cost",
    "degree_17",
    "eigen_root",
    "eigh",
    "elementary_symmetric",
    "explain",
    "fewest_restarts",
    "frobenius",
    "frobenius_add",
    "frobenius_ball",
    "frobenius_max",
    "gelfand",
    "gram_newton_schulz",
    "halley_weights",
    "hard_cap",
    "householder_qr",
    "inverse_fisher_diagonal",
    "inverse_fisher_of",
    "inverse_fisher_product",
    "local",
    "margin",
    "minimax",
    "newton_schulz",
    "newton_schulz_root",
    "one_sided_polar",
    "over_gram",
    "polar_express",
    "polar_express_root",
    "precondition_with",
    "qdwh",
    "quiet_restarts",
    "radial_brake",
    "randomized_cholesky_qr",
    "restart_metric",
    "rounding",
    "row_ball",
    "satisfies",
    "schatten",
    "schatten_8",
    "sign_ball",
    "small_side_first",
    "spectral",
    "spectral_ball",
    "spectral_cap",
    "spectral_clip",
    "sphere",
    "stiefel",
    "svd",
]
