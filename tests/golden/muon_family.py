# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: optimizers of the Muon family."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax.layout.view import MatrixView
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix import newton_schulz, svd
from orthoptax.optimizers.muon import muon
from orthoptax.transforms import (
    cautious,
    decoupled,
    independent,
    l2,
    momentum,
    original,
    original_last_two,
    orthogonalize,
    palm,
    scale_by_learning_rate,
    scale_by_shape,
    spectral,
    spectral_norm,
    unscaled,
)
from orthoptax.transforms.scale_by_shape import match_rms
from tests.golden.orthogonalize import scale_of
from tests.golden.replay import Case, Fields

SHAPE_RULES = {  # every word for a shape scale, in any source
    "original": original,
    "shape_scaling": original,
    "match_rms_adamw": match_rms,
    "rms_norm": match_rms,
    "spectral_norm": spectral_norm,
    "unit_rms_norm": spectral_norm,
    "spectral": spectral,
    "none": unscaled,
    None: unscaled,
}


class Recipe(NamedTuple):
    """What every Muon of the field is made of."""

    rate: float
    b1: float
    ema: bool
    nesterov: bool
    decay: float
    polar: Any
    rule: Any
    layout: Any
    method: str = "decoupled"
    rest: optax.GradientTransformation | None = None


def build(r: Recipe) -> optax.GradientTransformation:
    """The named optimizer where it says the same, else its links recombined."""
    rest = optax.set_to_zero() if r.rest is None else r.rest
    if r.ema and r.method == "decoupled":
        return muon(
            r.rate, b1=r.b1, nesterov=r.nesterov, weight_decay=r.decay, polar=r.polar,
            shape_rule=r.rule, layout=r.layout, rest=rest,
        )  # fmt: skip
    before, end = ends(r.method, r.decay, r.rate)
    chain = optax.chain(
        *before,
        momentum(r.b1, ema=r.ema, nesterov=r.nesterov),
        on_matrices(orthogonalize(r.polar), scale_by_shape(r.rule), layout=r.layout),
        *end,
    )
    return by_layout(matrix=chain, rest=rest, layout=r.layout)


def ends(method: str, decay: float, rate: float) -> tuple[list, list]:
    """The links before the momentum and the last ones, by the word for the decay."""
    return {
        "decoupled": ([], [decoupled(decay), scale_by_learning_rate(rate)]),
        "cautious": ([], [cautious(decay), scale_by_learning_rate(rate)]),
        "l2": ([l2(decay)], [scale_by_learning_rate(rate)]),
        "independent": ([], [independent(decay, learning_rate=rate)]),
        "palm": ([], [palm(decay, learning_rate=rate)]),
    }[method]


def rows_first(
    *, flatten: bool = False, heads: int = 0, blocks: tuple[int, ...] = ()
) -> Callable[[str, Any], MatrixView | None]:
    """The recorded orientation: (rows = outputs, columns = inputs), else batch."""

    def layout(name: str, leaf: Any) -> MatrixView | None:
        n = len(leaf.shape)
        if n < 2:
            return None
        rows, cols = ((0,), tuple(range(1, n))) if flatten else ((-2,), (-1,))
        height = leaf.shape[rows[0]]
        sizes = (height // heads,) * heads if heads else blocks
        return MatrixView(rows, cols, tuple(sizes))

    return layout


def orthogonalizer(words: dict[str, Any]) -> Any:
    """The `orthogonalizer` dictionary of a case as a polar function."""
    f = Fields(words, "orthogonalizer")
    kind = f.take("type")
    if kind == "svd":
        f.done()
        return svd()
    if kind != "newton_schulz":
        raise KeyError(f"unknown orthogonalizer {kind!r}")
    polar = newton_schulz(
        f.take("coefficients"),
        scale=scale_of(f.take("normalize"), f.take("eps"), f.take("eps_mode")),
    )
    f.done()
    return polar


def scaled(rule: Any, factor: float) -> Any:
    """A shape rule times a constant."""
    return lambda rows, cols, shape: factor * rule(rows, cols, shape)


def common(f: Fields) -> dict[str, Any]:
    """What every variant says, under whichever of its names."""
    f.take("ns_steps", default=None)  # the orthogonalizer holds the stages themselves
    f.take("epsilon", "eps", default=None)  # and the epsilon
    return {
        "rate": f.take("lr", "learning_rate"),
        "b1": f.take("momentum", "mu", "beta", "beta1"),
        "ema": {"ema": True, "sum": False}[f.take("momentum_form")],
        "nesterov": f.take("nesterov"),
        "decay": f.take("weight_decay", "wd"),
        "polar": orthogonalizer(f.take("orthogonalizer")),
    }


def keller_jordan(f: Fields) -> Recipe:
    assert f.take("shape_scale").startswith("sqrt(max(1, size(-2)/size(-1)))")
    assert f.take("ndim4").startswith("flattened")
    assert f.take("ndim3").startswith("batch")
    flat, stacked = rows_first(flatten=True), rows_first()
    layout = lambda n, x: (flat if len(x.shape) == 4 else stacked)(n, x)
    return Recipe(**common(f), rule=original_last_two, layout=layout)


def moonshot(f: Fields) -> Recipe:
    rule = SHAPE_RULES[f.take("adjust_lr")]
    return Recipe(**common(f), rule=rule, layout=rows_first())


def microsoft_dion(f: Fields) -> Recipe:
    f.take("use_polar_express", default=None)  # the orthogonalizer says which
    layout = rows_first(
        flatten=f.take("flatten"),
        heads=f.take("num_heads", default=0) or 0,
        blocks=tuple(f.take("split_sizes", default=()) or ()),
    )
    method = "cautious" if f.take("cautious_wd") else "decoupled"
    rule = SHAPE_RULES[f.take("adjust_lr")]
    return Recipe(**common(f), rule=rule, layout=layout, method=method)


def torch_muon(f: Fields) -> Recipe:
    f.take("ns_coefficients")  # in the orthogonalizer
    rule = SHAPE_RULES[f.take("adjust_lr_fn")]
    return Recipe(**common(f), rule=rule, layout=rows_first())


def emerging(f: Fields) -> Recipe:
    f.take("coefficient_type")  # the orthogonalizer holds the stages themselves
    f.take("num_ns_steps")
    rule = scaled(SHAPE_RULES[f.take("scale_mode")], f.take("extra_scale_factor"))
    method = f.take("weight_decay_method")
    return Recipe(**common(f), rule=rule, layout=rows_first(), method=method)


def megatron(f: Fields) -> Recipe:
    assert f.take("adamuon") is False
    f.take("beta2")  # of the other branch of the file
    f.take("second_moment_persisted")
    target = f.take("rms_target")
    assert f.take("matched_adamw_rms") == target
    words = common(f)
    rest = megatron_adamw(
        words["rate"], *f.take("adamw_betas"), f.take("adamw_eps"), words["decay"]
    )
    rule = scaled(spectral, target)
    return Recipe(**words, rule=rule, layout=rows_first(), rest=rest)


MUON = {
    "KellerJordan reference": keller_jordan,
    "Moonshot form": moonshot,
    "microsoft/dion Muon": microsoft_dion,
    "torch.optim.Muon": torch_muon,
    "NVIDIA Emerging-Optimizers Muon": emerging,
    "authors, Megatron script": megatron,
}


def muon_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    tx = build(MUON[case.meta["variant"]](f))
    f.done()
    return tx


def muon_with_aux_adam(case: Case) -> optax.GradientTransformation:
    f = case.fields
    hidden, aux = Fields(f.take("muon"), "muon"), Fields(f.take("adam"), "adam")
    groups = f.take("partition")
    assert set(groups) == {"muon", "adam"}
    b1, b2 = aux.take("betas")
    rest = optax.adamw(
        aux.take("lr"), b1, b2, aux.take("eps"), weight_decay=aux.take("weight_decay")
    )
    views = rows_first()
    recipe = Recipe(
        rate=hidden.take("lr"), b1=hidden.take("momentum"),
        ema={"ema": True, "sum": False}[hidden.take("momentum_form")],
        nesterov=hidden.take("nesterov"), decay=hidden.take("weight_decay"),
        polar=orthogonalizer(f.take("orthogonalizer")),
        rule=SHAPE_RULES[f.take("shape_scale")], rest=rest,
        layout=lambda n, x: views(n, x) if n in groups["muon"] else None,
    )  # fmt: skip
    for fields in (hidden, aux, f):
        fields.done()
    return build(recipe)


def megatron_adamw(
    rate: float, b1: float, b2: float, eps: float, decay: float
) -> optax.GradientTransformation:
    """Those scripts' AdamW: m/(sqrt(v) + eps) * sqrt(1 - b2^t)/(1 - b1^t).

    optax adds eps after the bias correction of v, here it is added before.
    """

    def update(g: Any, state: Any, params: Any = None) -> Any:
        t, m, v = state
        t = t + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
        s = jnp.sqrt(1 - b2**t) / (1 - b1**t)
        step = lambda m, v, p: (
            -rate * (m / (jnp.sqrt(v) + eps) * s.astype(m.dtype) + decay * p)
        )
        return jax.tree.map(step, m, v, params), (t, m, v)

    zeros = lambda params: jax.tree.map(jnp.zeros_like, params)
    return optax.GradientTransformation(
        lambda params: (jnp.zeros((), jnp.int32), zeros(params), zeros(params)), update
    )


OPTIMIZERS = {"muon": muon_case, "muon_with_aux_adam": muon_with_aux_adam}
