# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: what normalizes a polar factor.

NorMuon, AdaMuon and Turbo-Muon. The authors' epsilons stand where their code has them,
so most cases are the links of the named optimizer, recombined.
"""

import math
from typing import Any

import jax.numpy as jnp
import optax

from orthoptax.layout.view import MatrixView
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers.normuon import normuon
from orthoptax.transforms import (
    keep_norm,
    momentum,
    normalize_neurons,
    original,
    original_last_two,
    orthogonalize,
    rms_align,
    scale_by_shape,
    second_moment,
    sign,
)
from tests.golden.muon_family import (
    SHAPE_RULES,
    build,
    common,
    ends,
    megatron_adamw,
    microsoft_dion,
    rows_first,
)
from tests.golden.replay import Case, Fields, close


def chained(
    words: dict[str, Any],
    *links: optax.GradientTransformation,
    layout: Any,
    method: str = "decoupled",
    rest: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Momentum, the links in parameter coordinates, decay and rate."""
    before, end = ends(method, words["decay"], words["rate"])
    first = momentum(words["b1"], ema=words["ema"], nesterov=words["nesterov"])
    chain = optax.chain(*before, first, *links, *end)
    rest = optax.set_to_zero() if rest is None else rest
    return by_layout(matrix=chain, rest=rest, layout=layout)


def flat_convolutions(name: str, leaf: Any) -> MatrixView | None:
    """4-D leaves as (out, rest), the others by their last two axes."""
    return rows_first(flatten=len(leaf.shape) == 4)(name, leaf)


# NorMuon


def normuon_authors(f: Fields) -> optax.GradientTransformation:
    words, b2, eps = common(f), f.take("beta2"), f.take("eps_div")
    assert f.take("shape_scale").startswith("original")
    quirk = f.take("conv4d", default=None)
    if quirk is None and words["ema"]:
        return named_normuon(words, b2=b2, eps=eps, shape_rule=original)
    layout = flat_convolutions if quirk else rows_first()
    links = [
        on_matrices(orthogonalize(words["polar"]), layout=layout),
        on_matrices(  # their rows of a convolution are its last axis but one
            keep_norm(normalize_neurons(b2, eps=eps), eps=eps),
            scale_by_shape(original_last_two),
            layout=rows_first(),
        ),
    ]
    return chained(words, *links, layout=layout)


def named_normuon(words: dict[str, Any], **options: Any) -> Any:
    """The named optimizer, whose momentum is an average."""
    return normuon(
        words["rate"], b1=words["b1"], nesterov=words["nesterov"],
        weight_decay=words["decay"], polar=words["polar"], layout=rows_first(),
        rest=optax.set_to_zero(), **options,
    )  # fmt: skip


def normuon_dion(f: Fields) -> optax.GradientTransformation:
    eps, b2 = f.take("epsilon"), f.take("muon_beta2")
    rule = SHAPE_RULES[f.take("adjust_lr")]
    method = "cautious" if f.take("cautious_wd") else "decoupled"
    flatten = f.take("flatten")
    layout = rows_first(
        flatten=flatten,
        heads=f.take("num_heads", default=0) or 0,
        blocks=tuple(f.take("split_sizes", default=()) or ()),
    )
    words = common(f)

    def full(rows: int, cols: int, shape: tuple[int, ...]) -> float:
        """The rule of the whole leaf, not of a block."""
        size = (shape[0], math.prod(shape[1:])) if flatten else shape[-2:]
        return rule(*size, shape)

    ratio = lambda rows, cols, shape: rule(rows, cols, shape) / full(rows, cols, shape)
    links = [
        orthogonalize(words["polar"]),
        scale_by_shape(ratio),  # 1 but for the blocks of a fused leaf
        keep_norm(normalize_neurons(b2, eps=eps), floor=eps),
        scale_by_shape(full),
    ]
    matrices = on_matrices(*links, layout=layout)
    return chained(words, matrices, layout=layout, method=method)


def normuon_paper(f: Fields) -> optax.GradientTransformation:
    b2, eps, target = f.take("beta2"), f.take("eps"), f.take("rms_target")
    words, layout = common(f), rows_first()
    links = [
        orthogonalize(words["polar"]),
        normalize_neurons(b2, eps=eps),
        rms_align(target),
    ]
    return chained(words, on_matrices(*links, layout=layout), layout=layout)


NORMUON = {
    "zichongli5/NorMuon": normuon_authors,
    "microsoft/dion NorMuon": normuon_dion,
    "paper": normuon_paper,
}


def variance_reduction(case: Case, dtype: str) -> None:
    """Three calls with the state between them; our state is their buffer."""
    f = case.fields
    b2, floor = f.take("beta2"), f.take("clamp")
    assert f.take("reduce_axis") == "last axis if rows>=cols else the row axis"
    f.done()
    shorter = lambda rows, cols: -1 if rows >= cols else -2
    tx = keep_norm(normalize_neurons(b2, floor=floor, axis=shorter), floor=floor)
    inputs, outputs = case.group("in"), case.group("out")
    names = {key.split("/")[0] for key in inputs}
    calls = sum(key.startswith(f"{min(names)}/u") for key in inputs)
    seen = set()
    for name in sorted(names):
        assert float(inputs[f"{name}/beta2"]) == b2
        state = tx.init({name: jnp.asarray(inputs[f"{name}/u1"], dtype)})
        for t in range(1, calls + 1):
            u = {name: jnp.asarray(inputs[f"{name}/u{t}"], dtype)}
            out, state = tx.update(u, state)
            got = {"o": out[name], "v": state.second_moment[name]}
            for kind, value in got.items():
                key = f"{name}/{kind}{t}"
                close(value, outputs[key], key, **case.tolerance(dtype))
                seen.add(key)
    assert seen == set(outputs)


# AdaMuon


def adamuon_links(f: Fields, *last: Any, layout: Any) -> tuple[dict[str, Any], list]:
    """The common words; sign | orthogonalize | second_moment | rms_align | last."""
    eps = f.take("eps", default=1e-8)  # the Megatron script has it written in
    correct = f.take("second_moment_bias_correction", default=False)
    target, b2 = f.take("rms_target"), f.take("beta2", default="= momentum")
    persisted = f.take("second_moment_persisted", default=True)
    words = common(f)
    adaptive = second_moment(
        words["b1"] if b2 == "= momentum" else b2, eps=eps, bias_correction=correct
    )
    return words, [
        sign(),
        on_matrices(orthogonalize(words["polar"]), layout=layout),
        adaptive if persisted else forgetful(adaptive),
        on_matrices(rms_align(target, eps=eps), *last, layout=layout),
    ]


def forgetful(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """A link that starts afresh every step, as one script does by mistake."""
    return optax.GradientTransformation(
        tx.init, lambda u, s, p=None: (tx.update(u, tx.init(u), p)[0], s)
    )


def adamuon_gpt2(f: Fields) -> optax.GradientTransformation:
    def quirk(rows: int, cols: int, shape: tuple[int, ...]) -> float:
        """Their target counts min * max entries of a 4-D leaf, not all."""
        return math.sqrt(min(shape) * max(shape) / (rows * cols))

    layout = flat_convolutions
    words, links = adamuon_links(f, scale_by_shape(quirk), layout=layout)
    return chained(words, *links, layout=layout)


def adamuon_megatron(f: Fields) -> optax.GradientTransformation:
    assert f.take("adamuon") is True
    b1, b2 = f.take("adamw_betas")
    eps, layout = f.take("adamw_eps"), rows_first()
    f.take("matched_adamw_rms")  # rms_target says the same
    words, links = adamuon_links(f, layout=layout)
    rest = megatron_adamw(words["rate"], b1, b2, eps, words["decay"])
    return chained(words, *links, layout=layout, rest=rest)


def adamuon_paper(f: Fields) -> optax.GradientTransformation:
    words, links = adamuon_links(f, layout=rows_first())
    return chained(words, *links, layout=rows_first())


ADAMUON = {
    "authors, GPT-2 script": adamuon_gpt2,
    "authors, Megatron script": adamuon_megatron,
    "paper": adamuon_paper,
}


def variant(table: dict[Any, Any]) -> Any:
    """From a table of variants to a function of cases."""

    def make(case: Case) -> optax.GradientTransformation:
        f = case.fields
        tx = table[case.meta.get("variant")](f)
        f.done()
        return tx

    return make


OPTIMIZERS = {
    "normuon": variant(NORMUON),
    "adamuon": variant(ADAMUON),
    "turbo_muon": variant({None: lambda f: build(microsoft_dion(f))}),
}
REPLAYS = {"normuon_variance_reduction": variance_reduction}
