# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: Dion, Dion2, NorDion2."""

from typing import Any

import jax.numpy as jnp
import optax

from orthoptax.layout.wrap import on_matrices
from orthoptax.matrix.qr import cholesky_qr, householder_qr, randomized_cholesky_qr
from orthoptax.optimizers import dion, dion2
from orthoptax.transforms import (
    decoupled,
    error_feedback,
    keep_norm,
    low_rank,
    normalize_neurons,
    orthogonalize,
    scale_by_learning_rate,
    scale_by_shape,
    submatrix,
)
from tests.golden.muon_family import SHAPE_RULES, orthogonalizer, rows_first
from tests.golden.replay import Case, Fields, Run

TURNED = {  # the words for what is transposed
    "never": False,
    "iff rows < cols": True,
    "iff rows < cols (no sharding)": True,
}
QR = {  # the words for how columns are made orthonormal
    "qr": householder_qr,
    "cqr": cholesky_qr,
    "rcqr": randomized_cholesky_qr,
}
AXES = {  # the words for what is chosen, and the size that k is a fraction of
    "the shorter matrix axis (rows if rows<=cols)": (None, "size"),
    "always rows": (-2, "rows"),
    "always columns": (-1, "cols"),
}


def dion_case(case: Case) -> Run:
    f = case.fields
    # Of the random sketch, which the result does not show.
    f.take("oversample", default=None)
    f.take("cqr_warmup_steps", default=None)
    compressor = low_rank(
        f.take("rank_fraction", default=None),
        rank=f.take("rank", default=None),
        multiple_of=f.take("rank_multiple_of", default=1),
        steps=f.take("power_iters"),
        qr=QR[f.take("qr_method")](),
        eps=f.take("epsilon"),
        tall=TURNED[f.take("transpose")],
    )
    tx = dion(
        f.take("lr"),
        b1=f.take("mu"),
        compressor=compressor,
        weight_decay=f.take("weight_decay"),
        layout=rows_first(),
        rest=optax.set_to_zero(),
    )
    f.done()
    return Run(tx, with_basis, momentum_of)


def with_basis(state: Any, case: Case, dtype: str) -> Any:
    """The recorded first basis in place of ours."""
    basis = {k: jnp.asarray(v, dtype) for k, v in case.group("extra/0/Q").items()}
    shapes = lambda tree: {k: v.shape for k, v in tree.items()}
    assert shapes(basis) == shapes(optax.tree.get(state, "basis"))
    return optax.tree.set(state, basis=basis)


def momentum_of(before: Any, after: Any, updates: Any) -> dict[str, dict[str, Any]]:
    """The momentum after a step, and the variance if there is one."""
    del before, updates
    found = {"momentum": optax.tree.get(after, "momentum")}
    variance = optax.tree.get(after, "second_moment")
    return found if variance is None else found | {"variance": variance}


def dion2_case(case: Case) -> Run:
    f = case.fields
    b1, words = f.take("ef_decay"), sliced(f)
    if words["axis"] is not None:
        return recombined(f, b1, words, orthogonalize(words["polar"]))
    tx = dion2(
        words["rate"], b1=b1, fraction=words["fraction"], polar=words["polar"],
        weight_decay=words["decay"], shape_rule=words["rule"],
        layout=words["layout"], rest=optax.set_to_zero(),
    )  # fmt: skip
    f.done()
    return Run(tx, observe=momentum_of)


def nordion2_case(case: Case) -> Run:
    f = case.fields
    # Literals in the authors' file, whatever epsilon is passed.
    even = keep_norm(normalize_neurons(f.take("muon_beta2"), eps=1e-8), floor=1e-8)
    b1, words = f.take("mu"), sliced(f)
    return recombined(f, b1, words, orthogonalize(words["polar"]), even)


def recombined(f: Fields, b1: float, words: dict[str, Any], *links: Any) -> Run:
    """The chain of both, around these links."""
    part = submatrix(*links, fraction=words["fraction"], axis=words["axis"])
    layout = words["layout"]
    tx = optax.chain(
        error_feedback(b1, on_matrices(part, layout=layout)),
        on_matrices(scale_by_shape(words["rule"]), layout=layout),
        decoupled(words["decay"]),
        scale_by_learning_rate(words["rate"]),
    )
    f.done()
    return Run(tx, observe=momentum_of)


def sliced(f: Fields) -> dict[str, Any]:
    """What Dion2 and NorDion2 both say."""
    f.take("epsilon")  # the orthogonalizer holds it
    axis, size = AXES[f.take("select_axis")]
    assert f.take("k") == f"max(1, ceil(fraction*{size}))"
    return {
        "rate": f.take("lr"),
        "fraction": f.take("fraction"),
        "axis": axis,
        "decay": f.take("weight_decay"),
        "polar": orthogonalizer(f.take("orthogonalizer")),
        "rule": SHAPE_RULES[f.take("adjust_lr")],
        "layout": rows_first(flatten=f.take("flatten")),
    }


OPTIMIZERS = {"dion": dion_case, "dion2": dion2_case, "nordion2": nordion2_case}
