# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: norm balls and constrained weights."""

import math
from typing import Any

import jax.numpy as jnp
import optax

from orthoptax._types import Scaled
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix import (
    column_ball,
    frobenius_ball,
    row_ball,
    sign_ball,
    spectral_ball,
    sphere,
    stiefel,
)
from orthoptax.optimizers.muon_hyperball import muon_hyperball
from orthoptax.optimizers.muown import muown
from orthoptax.optimizers.scion import scion
from orthoptax.optimizers.spel import spel
from orthoptax.optimizers.trust_region import trust_region
from orthoptax.transforms import (
    cautious,
    decoupled,
    independent,
    l2,
    lmo,
    momentum,
    orthogonalize,
    palm,
    project_weights,
    relative_update,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_shape,
    sign_or_rms,
    unscaled,
)
from tests.golden.muon_family import SHAPE_RULES, orthogonalizer, rows_first, scaled
from tests.golden.replay import Case, Fields

LEFT_ALONE = optax.set_to_zero()


def leaf_by_leaf(links: dict[str, Any]) -> optax.GradientTransformation:
    """One optimizer for each leaf of a flat tree."""
    return optax.partition(links, {name: name for name in links})


def trust_region_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    polar = orthogonalizer(f.take("orthogonalizer"))
    balls = {
        "spectral": spectral_ball(polar), "frobenius": frobenius_ball(),
        "linf": sign_ball(), "colnorm": column_ball(), "rownorm": row_ball(),
    }  # fmt: skip
    rate, decay = f.take("eta", "lr", "learning_rate"), f.take("beta")
    start = {"zero": False, "first gradient": True}[f.take("momentum_init")]
    assert f.take("norm_of_param") == "parameter names are the norms"
    b1 = 1 - f.take("alpha")
    f.done()
    one = lambda ball: trust_region(
        rate, b1=b1, first_gradient=start, weight_decay=decay / rate, norm=ball,
        rest=LEFT_ALONE, layout=rows_first(),
    )  # fmt: skip
    return leaf_by_leaf({name: one(balls[name]) for name in case.group("param")})


def polar_of(f: Fields, b1: float) -> Any:
    """The orthogonalizer, of the sum where M is recorded as one: M / (1 - b1)."""
    f.take("coefficient_type", default=None)  # the orthogonalizer holds the stages
    f.take("num_ns_steps", default=None)
    polar = orthogonalizer(f.take("orthogonalizer"))
    if f.take("momentum_form") == "ema":
        return polar
    return lambda x: polar(x / (1 - b1))


def scion_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    b1 = f.take("momentum")
    assert f.take("nesterov", default=False) is False
    tx = scion(
        f.take("lr"), b1=b1, radius=f.take("spectral_radius"),
        weight_decay=f.take("weight_decay"), polar=polar_of(f, b1), rest=LEFT_ALONE,
        layout=rows_first(),
    )  # fmt: skip
    f.done()
    return tx


def plus(extra: Any) -> Any:
    """A scale for slices of k entries, `many` of them: |x| + extra(k, many)."""

    def scale(x: Any, inner: Any) -> Scaled:
        many = x.shape[-3] if x.ndim > 2 else 1
        floor = extra(x.shape[-1], many)
        return Scaled(x / (jnp.sqrt(inner.squares(x)) + floor).astype(x.dtype))

    return scale


def column_norm(f: Fields, eps: float) -> tuple[Any, Any]:
    """rms + eps of each column divides it; normalized: rms * columns + eps."""
    over = (lambda n: n) if f.take("normalized", default=False) else (lambda n: 1)
    scale = plus(lambda k, many: eps * math.sqrt(k) / over(many))
    if f.take("transpose", default=False):
        return row_ball(scale), lambda m, n, shape: math.sqrt(n) / over(m)
    return column_ball(scale), lambda m, n, shape: math.sqrt(m) / over(n)


def row_norm(f: Fields, eps: float) -> tuple[Any, Any]:
    """|row| sqrt(columns) + eps divides each row; else |row| + eps."""
    root = math.sqrt if f.take("normalized", default=True) else (lambda n: 1)
    scale = plus(lambda k, many: eps / root(k))
    if f.take("transpose", default=False):
        return column_ball(scale), lambda m, n, shape: 1 / root(m)
    return row_ball(scale), lambda m, n, shape: 1 / root(n)


def sign(f: Fields, eps: float) -> tuple[Any, Any]:
    del eps
    f.take("zero_init", default=None)  # of the initialization
    normalized = f.take("normalized", default=True)
    return sign_ball(), (lambda m, n, shape: 1 / n) if normalized else unscaled


def spectral(f: Fields) -> Any:
    f.take("steps", default=None)  # the orthogonalizer holds the stages themselves
    inputs = f.take("normalized", default=True)
    least = 1.0 if f.take("max", default=False) else 0.0
    return lambda m, n, shape: max(least, math.sqrt(m / n if inputs else m))


def convolution(f: Fields) -> Any:
    """sqrt(out/in)/k^2 of (out, in, k, k), /k of (out, in, k)."""
    f.take("steps", default=None)
    return lambda m, n, shape: (
        math.sqrt(shape[0] / shape[1]) / shape[2] ** (len(shape) - 2)
    )


def scion_leaf(
    kind: str, f: Fields, ndim: int, polar: Any, eps: float, words: dict[str, Any]
) -> optax.GradientTransformation:
    """One leaf's optimizer, of its norm's name and that norm's arguments."""
    auto = {0: "BiasRMS", 1: "BiasRMS", 2: "Spectral", 3: "SpectralConv",
            4: "SpectralConv"}  # fmt: skip
    kind = auto[ndim] if kind == "Auto" else kind
    rate, b1, radius, decay = (words[k] for k in ("rate", "b1", "radius", "decay"))
    layout = rows_first(flatten=True)
    if kind in ("Spectral", "SpectralConv"):
        rule = (spectral if kind == "Spectral" else convolution)(f)
        return scion(
            rate, b1=b1, radius=radius, weight_decay=decay, polar=polar,
            shape_rule=rule, rest=LEFT_ALONE, layout=layout,
        )  # fmt: skip
    if kind == "BiasRMS" and ndim < 2:
        step = sign_or_rms(radius, scale=plus(lambda k, many: eps * math.sqrt(k)))
    else:
        norms = {"Sign": sign, "ColNorm": column_norm, "RowNorm": row_norm,
                 "BiasRMS": column_norm}  # fmt: skip
        ball, rule = norms[kind](f, eps)
        step = on_matrices(
            lmo(ball, radius=radius), scale_by_shape(rule), layout=layout
        )
    return optax.chain(
        momentum(b1, nesterov=False), step, decoupled(decay),
        scale_by_learning_rate(rate),
    )  # fmt: skip


def scion_authors(case: Case) -> optax.GradientTransformation:
    f = case.fields
    polar, eps = orthogonalizer(f.take("orthogonalizer")), f.take("eps")
    words = {"rate": f.take("lr"), "b1": 1 - f.take("momentum"),
             "decay": 0.0 if f.take("unconstrained") else 1.0}  # fmt: skip
    norms, radii = f.take("norms"), f.take("scale")
    f.done()
    links = {}
    for name, value in case.group("param").items():
        kind, arguments = norms[name]
        own = Fields(arguments, name)
        ours = {**words, "radius": radii[name]}
        links[name] = scion_leaf(kind, own, value.ndim, polar, eps, ours)
        own.done()
    return leaf_by_leaf(links)


def decays(method: str, decay: float, rate: float) -> tuple[list, list]:
    """The links before the momentum and after the direction."""
    end = scale_by_learning_rate(rate)
    return {
        "decoupled": ([], [decoupled(decay), end]),
        "cautious": ([], [cautious(decay), end]),
        "l2": ([l2(decay)], [end]),
        "independent": ([], [independent(decay, learning_rate=rate)]),
        "palm": ([], [palm(decay, learning_rate=rate)]),
    }[method]


def projected(
    f: Fields, named: Any, projection: Any, links: list, options: dict[str, Any]
) -> optax.GradientTransformation:
    """The named optimizer; its links recombined for another form of decay."""
    rate, b1, nesterov = f.take("lr"), f.take("momentum"), f.take("nesterov")
    decay, polar = f.take("weight_decay"), polar_of(f, b1)
    method = f.take("weight_decay_method", default="decoupled")
    layout = rows_first()
    if method == "decoupled":
        return named(
            rate, b1=b1, nesterov=nesterov, weight_decay=decay, polar=polar,
            rest=LEFT_ALONE, layout=layout, **options,
        )  # fmt: skip
    before, end = decays(method, decay, rate)
    chain = optax.chain(
        *before, momentum(b1, nesterov=nesterov),
        on_matrices(orthogonalize(polar), *links, layout=layout), *end,
        on_matrices(project_weights(projection(polar)), layout=layout),
    )  # fmt: skip
    return by_layout(matrix=chain, rest=LEFT_ALONE, layout=layout)


def spel_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    tx = projected(f, spel, stiefel, [], {})
    f.done()
    return tx


def hyperball_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    f.take("scale_mode", default=None)  # the normalization removes both
    f.take("extra_scale_factor", default=None)
    assert f.take("hyperball_eps") < 1e-3  # a floor of norms near 1: never reached
    radius = f.take("hyperball_radius", default=None)
    around = lambda polar: sphere(radius)
    options = {"radius": radius}
    tx = projected(f, muon_hyperball, around, [relative_update()], options)
    f.done()
    return tx


def muown_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    b1, betas = f.take("momentum"), f.take("betas")
    rule = SHAPE_RULES[f.take("scale_mode")]
    tx = muown(
        f.take("lr"), b1=b1, weight_decay=f.take("weight_decay"),
        magnitude=scale_by_adam(*betas, eps=f.take("adam_eps")), polar=polar_of(f, b1),
        shape_rule=scaled(rule, f.take("extra_scale_factor", default=1.0)),
        rest=LEFT_ALONE, layout=rows_first(),
    )  # fmt: skip
    f.done()
    return tx


OPTIMIZERS = {
    "trust_region": trust_region_case,
    "scion": scion_case,
    "scion_authors": scion_authors,
    "spel": spel_case,
    "muon_hyperball": hyperball_case,
    "muown": muown_case,
}
