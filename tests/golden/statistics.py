# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: steps scaled by a statistic of G."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix import (
    POLAR_EXPRESS_ROOT,
    eigen_root,
    newton_schulz_root,
    polar_express_root,
    svd,
)
from orthoptax.matrix.orientation import small_side_first
from orthoptax.optimizers import adago, asgo, dasgo, mop, polargrad
from orthoptax.transforms import (
    momentum,
    one_sided,
    orthogonalize,
    rms_align,
    scale_by_dual_norm,
    scale_by_learning_rate,
    scale_by_shape,
    with_statistics,
)
from orthoptax.transforms.weight_decay import decoupled
from tests.golden.muon_family import (
    SHAPE_RULES,
    common,
    ends,
    orthogonalizer,
    rows_first,
)
from tests.golden.replay import Case, Fields, Run

WHERE: Any = {"layout": rows_first(), "rest": optax.set_to_zero()}


def in_rows_first(*links: optax.GradientTransformation) -> Any:
    """A chain of ours for the matrices, where no named optimizer says the same."""
    return by_layout(matrix=optax.chain(*links), **WHERE)


def words_of(f: Fields) -> dict[str, Any]:
    """`common` in our arguments' names, and without what they have no name for."""
    said = common(f)
    assert said.pop("ema"), "the sum form would change the length of the step"
    names = {"rate": "learning_rate", "decay": "weight_decay"}
    return {names.get(k, k): v for k, v in said.items()}


def witness() -> optax.GradientTransformation:
    """A link that keeps what it was given and told: the state of the last step."""
    zeros = lambda params: jax.tree.map(jnp.zeros_like, params)

    def update(u: Any, state: Any, params: Any = None, *, grad: Any, **extra: Any):
        return u, {"seen": u, "told": grad}

    return optax.GradientTransformationExtraArgs(
        lambda params: {"seen": zeros(params), "told": zeros(params)}, update
    )


def adago_case(case: Case) -> Run:
    f = case.fields
    eps = f.take("eps")  # the least step; that of the orthogonalizer is in its words
    assert f.take("norm") == "frobenius of the raw gradient, per matrix"
    gamma, initial = f.take("gamma"), f.take("v0")
    words = words_of(f)
    f.done()
    b1, polar = words["b1"], jax.jit(small_side_first(words["polar"]))

    def observe(before: Any, after: Any, updates: Any) -> Any:
        """The factor of the polar factor, by projection on it."""
        moments = optax.tree.get(after, "momentum")
        state = {k: optax.tree.get(after, k) for k in ("seen", "told")}

        def size(name: str, scaled: jax.Array) -> jax.Array:
            m, g = moments[name], state["told"][name]
            o = polar(b1 * m + (1 - b1) * g if words["nesterov"] else m)
            return words["learning_rate"] * jnp.sum(scaled * o) / jnp.sum(o * o)

        return {"stepsize": {k: size(k, u) for k, u in state["seen"].items()}}

    tx = adago(**words, gamma=gamma, eps=eps, initial=initial, after=witness(), **WHERE)
    return Run(tx, observe=observe)


def root_of(method: str, steps: int, eps: float) -> Any:
    """`inv_method`, with the authors' epsilon where each of them has it."""
    if method == "eigen":
        return eigen_root()
    if method == "newton_schulz":
        return newton_schulz_root([(2.0, -1.5, 0.5)] * steps, eps=eps)
    if method == "polar_express":
        endless = [*POLAR_EXPRESS_ROOT, *[POLAR_EXPRESS_ROOT[-1]] * steps]
        return polar_express_root(endless[:steps], eps=eps)
    raise KeyError(f"unknown inverse root {method!r}")


def preconditioned(f: Fields) -> dict[str, Any]:
    """What ASGO's and DASGO's cases share."""
    return {
        "learning_rate": f.take("learning_rate"),
        "b1": f.take("momentum"),
        "b2": f.take("beta2"),
        "weight_decay": f.take("weight_decay"),
        "after": rms_align(f.take("rms_target")),
        **WHERE,
    }


def asgo_case(case: Case) -> optax.GradientTransformation:
    if case.meta.get("variant") == "paper, theoretical form":
        return asgo_paper(case)
    assert "variant" not in case.meta
    f = case.fields
    root = root_of(f.take("inv_method"), f.take("matalg_steps"), f.take("eps"))
    tx = asgo(root=root, absolute=True, **preconditioned(f))
    f.done()
    return tx


def asgo_paper(case: Case) -> optax.GradientTransformation:
    f = case.fields
    side = {"left (rows)": True, "right (columns)": False}[f.take("side")]
    link = one_sided(
        root=eigen_root(f.take("eps")),
        left=lambda rows, cols: side,
        ema=False,
        absolute=True,
    )
    tx = in_rows_first(
        with_statistics(
            momentum(f.take("momentum"), nesterov=False),
            on_matrices(link, layout=WHERE["layout"]),
        ),
        scale_by_learning_rate(f.take("lr")),
    )
    f.done()
    return tx


def dasgo_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    tx = dasgo(eps=f.take("eps"), **preconditioned(f))
    f.done()
    return tx


def dual(
    words: dict[str, Any], method: str, link: Any, factor: float
) -> optax.GradientTransformation:
    """Momentum, one matrix link, a factor, and any form of weight decay."""
    before, end = ends(method, words["weight_decay"], words["learning_rate"])
    chain = (
        momentum(words["b1"], nesterov=words["nesterov"]),
        on_matrices(link, optax.scale(factor), layout=WHERE["layout"]),
    )
    return in_rows_first(*before, *chain, *end)


def polargrad_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    f.take("coefficient_type")  # the orthogonalizer holds the stages themselves
    f.take("num_ns_steps")
    method, factor = f.take("weight_decay_method"), f.take("extra_scale_factor")
    words = words_of(f)
    f.done()
    if method == "decoupled":
        return polargrad(**words, after=optax.scale(factor), **WHERE)
    link = scale_by_dual_norm(orthogonalize(words["polar"]))
    return dual(words, method, link, factor)


def mop_case(case: Case) -> optax.GradientTransformation:
    f = case.fields
    method, factor = f.take("weight_decay_method"), f.take("extra_scale_factor")
    mode = f.take("scale_mode")
    assert case.meta["hyperparameters"]["orthogonalizer"] == {"type": "svd"}
    words = words_of(f)
    f.done()
    del words["polar"]
    if mode == "nuclear_norm" and method == "decoupled":
        return mop(**words, after=optax.scale(factor), **WHERE)
    polar = orthogonalize(svd())
    if mode == "nuclear_norm":
        return dual(words, method, scale_by_dual_norm(polar), factor)
    link = optax.chain(polar, scale_by_shape(SHAPE_RULES[mode]))
    return dual(words, method, link, factor)


def polargrad_authors(case: Case) -> optax.GradientTransformation:
    f = case.fields
    assert f.take("momentum_form") == "ema"
    polar = orthogonalizer(f.take("orthogonalizer"))
    rate, decay, b1 = f.take("lr"), f.take("weight_decay"), f.take("momentum")
    first = f.take("polar_first")
    f.done()
    if not first:
        return polargrad(rate, b1=b1, weight_decay=decay, polar=polar, **WHERE)
    link = scale_by_dual_norm(orthogonalize(polar), then=momentum(b1, nesterov=False))
    return in_rows_first(
        on_matrices(link, layout=WHERE["layout"]),
        decoupled(decay),
        scale_by_learning_rate(rate),
    )


OPTIMIZERS = {
    "adago": adago_case,
    "asgo": asgo_case,
    "dasgo": dasgo_case,
    "mop": mop_case,
    "polargrad": polargrad_case,
    "polargrad_authors": polargrad_authors,
}
