# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: ROOT and AuON."""

import functools
from typing import Any

import jax.numpy as jnp
import optax

from orthoptax.layout.wrap import on_matrices
from orthoptax.optimizers.root import root
from orthoptax.transforms import (
    decoupled,
    energy_scale,
    momentum,
    orthogonalize,
    scale_by_learning_rate,
    scale_by_shape,
    soft_threshold,
    spectral,
)
from orthoptax.transforms.soft_threshold import part
from tests.golden.muon_family import (
    SHAPE_RULES,
    common,
    megatron_adamw,
    orthogonalizer,
    rows_first,
    scaled,
)
from tests.golden.normalized import chained, variant
from tests.golden.replay import Case, Fields, close

# ROOT


def root_authors(f: Fields) -> optax.GradientTransformation:
    for key in ("root_steps", "coefficient_table_fallback"):
        f.take(key)  # the orthogonalizer holds the stages
    assert f.take("quantile_method") == "linear"
    threshold = {"quantile": f.take("quantile"), "eps": f.take("quantile_eps")}
    rule = scaled(spectral, f.take("rms_target"))
    b1, b2 = f.take("adamw_betas")
    eps, words = f.take("adamw_eps"), common(f)
    rest = megatron_adamw(words["rate"], b1, b2, eps, words["decay"])
    if words["ema"]:
        links = [soft_threshold(**threshold), orthogonalize(words["polar"])]
        layout = rows_first()
        matrices = on_matrices(*links, scale_by_shape(rule), layout=layout)
        return chained(words, matrices, layout=layout, rest=rest)
    return root(
        words["rate"], b1=words["b1"], nesterov=words["nesterov"],
        weight_decay=words["decay"], polar=words["polar"], shape_rule=rule,
        rest=rest, layout=rows_first(), **threshold,
    )  # fmt: skip


def root_paper(f: Fields) -> optax.GradientTransformation:
    for key in ("coefficients", "steps"):
        f.take(key)  # the orthogonalizer holds the stages
    rule, threshold = SHAPE_RULES[f.take("shape_scale")], f.take("threshold")
    words, layout = common(f), rows_first()
    links = [
        soft_threshold(threshold=threshold),
        orthogonalize(words["polar"]),
        scale_by_shape(rule),
    ]
    return chained(words, on_matrices(*links, layout=layout), layout=layout)


ROOT = {
    None: root_authors,
    "paper algorithm with a fixed threshold and a custom coefficient triple": (
        root_paper
    ),
}


def root_parts(case: Case, dtype: str) -> None:
    """The three outputs of the threshold."""
    f = case.fields
    options = {"quantile": f.take("quantile"), "eps": f.take("quantile_eps")}
    f.done()
    inputs, outputs = case.group("in"), case.group("out")
    seen = set()
    for name, x in inputs.items():
        got = part(jnp.asarray(x, dtype), **options)
        values = got._replace(threshold=got.threshold[..., 0, 0])._asdict()
        for kind, value in values.items():
            key = f"{name}/{kind}"
            close(value, outputs[key], key, **case.tolerance(dtype))
            seen.add(key)
    assert seen == set(outputs)


# AuON: statistics of whole leaves, of any number of axes, as in the authors' code


def auon_links(f: Fields, *first: Any, normalize: bool) -> optax.GradientTransformation:
    ema = {"ema": True, "sum": False}[f.take("momentum_form")]
    scale = energy_scale(
        f.take("gamma"), normalize=normalize, eps=f.take("norm_eps"),
        rms_eps=f.take("rms_eps"), axes=None,
    )  # fmt: skip
    return optax.chain(
        momentum(f.take("momentum"), ema=ema, nesterov=f.take("nesterov")),
        *first,
        scale,
        decoupled(f.take("weight_decay", default=0.0)),
        scale_by_learning_rate(f.take("lr")),
    )


def hybrid_links(f: Fields, *, normalize: bool) -> optax.GradientTransformation:
    f.take("ns_steps")  # the orthogonalizer holds the stages
    polar = orthogonalizer(f.take("orthogonalizer"))
    return auon_links(
        f, on_matrices(orthogonalize(polar), layout=rows_first()), normalize=normalize
    )


FORMS = {None: False, "paper equations": True}


def both_forms(links: Any) -> Any:
    """The code's form and the paper's."""
    return variant(
        {word: functools.partial(links, normalize=n) for word, n in FORMS.items()}
    )


OPTIMIZERS = {
    "root": variant(ROOT),
    "auon": both_forms(auon_links),
    "hybrid_auon": both_forms(hybrid_links),
}
REPLAYS = {"root_soft_threshold": root_parts}
