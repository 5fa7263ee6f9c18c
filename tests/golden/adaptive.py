# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: Emerging-Optimizers' adaptive Muon.

One optimizer there, several here: `ADAPTIVE` says which links each of its modes has
between the momentum and the decay.
"""

from collections.abc import Callable
from typing import Any

import optax

from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.transforms import (
    divide_by_norm,
    keep_norm,
    momentum,
    normalize_neurons,
    orthogonalize,
    scale_by_input_norm,
    scale_by_shape,
    second_moment,
    with_statistics,
)
from tests.golden.muon_family import Recipe, emerging, ends
from tests.golden.replay import Case

Mode = Callable[[Recipe, float, float], list[optax.GradientTransformation]]
"""mode(recipe, b2, eps): links in parameter coordinates; they are told `grad`."""


def normuon(r: Recipe, b2: float, eps: float) -> list[Any]:
    """The mean is over the shorter axis, and both divisions have a floor."""
    shorter = lambda rows, cols: -1 if rows >= cols else -2
    return [
        on_matrices(
            orthogonalize(r.polar),
            keep_norm(normalize_neurons(b2, floor=eps, axis=shorter), floor=eps),
            scale_by_shape(r.rule),
            layout=r.layout,
        )
    ]


def adamuon(r: Recipe, b2: float, eps: float) -> list[Any]:
    """No sign and no alignment: the shape scale decides the size."""
    return [
        on_matrices(orthogonalize(r.polar), layout=r.layout),
        second_moment(b2, eps=eps),
        on_matrices(scale_by_shape(r.rule), layout=r.layout),
    ]


def namo(r: Recipe, b2: float, eps: float) -> list[Any]:
    """One number a matrix: the norm of the momentum over that of the gradients."""
    return [
        on_matrices(
            scale_by_input_norm(orthogonalize(r.polar)),
            divide_by_norm(b2, eps=eps),
            scale_by_shape(r.rule),
            layout=r.layout,
        )
    ]


ADAPTIVE: dict[str, Mode] = {"adamuon": adamuon, "namo": namo, "normuon": normuon}


def adaptive_muon(case: Case) -> optax.GradientTransformation:
    f = case.fields
    mode, b2, eps = ADAPTIVE[f.take("moment2_method")], f.take("beta2"), f.take("eps")
    r = emerging(f)
    f.done()
    before, end = ends(r.method, r.decay, r.rate)
    first = momentum(r.b1, ema=r.ema, nesterov=r.nesterov)
    chain = optax.chain(*before, with_statistics(first, *mode(r, b2, eps)), *end)
    return by_layout(matrix=chain, rest=optax.set_to_zero(), layout=r.layout)


OPTIMIZERS = {"adaptive_muon": adaptive_muon}
