# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: kernels that map a matrix to one."""

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthoptax.layout import from_optax
from orthoptax.layout.wrap import on_matrices
from orthoptax.matrix import (
    Factored,
    aol,
    by_shape,
    cans,
    degree_17,
    frobenius_add,
    frobenius_max,
    gelfand,
    gram_newton_schulz,
    newton_schulz,
    restart_metric,
    schatten,
    small_side_first,
    spectral,
    svd,
)
from orthoptax.matrix.orientation import flip
from orthoptax.transforms.orthogonalize import orthogonalize
from tests.golden.replay import Case, Fields, close

AOL_FLOOR = "clamp absolute Gram row sums from below before rsqrt"


def scale_of(normalize: str, eps: float, mode: str) -> Any:
    """'frobenius', 'frobenius*1.02' or 'aol', with its epsilon added or as a floor."""
    if (normalize, mode) == ("aol", AOL_FLOOR):
        return aol(eps)
    norm, _, factor = normalize.partition("*")
    if norm != "frobenius":
        raise KeyError(f"unknown normalization {normalize!r}")
    if mode == "add":
        return frobenius_add(eps, factor=float(factor or 1))
    if mode == "max" and not factor:
        return frobenius_max(eps)
    raise KeyError(f"unknown epsilon mode {mode!r} of {normalize!r}")


PLACEMENT = {  # the words for where epsilon goes: the norm, and the scale that does so
    "added to the Frobenius norm": ("frobenius", frobenius_add),
    "added to the norm": ("frobenius", frobenius_add),
    "max(fro, eps)": ("frobenius", frobenius_max),
    "added to the norm (exact spectral norm)": ("spectral", spectral),
    "lower clamp of the absolute row sums of the Gram matrix": ("aol", aol),
    "lower clamp of the Gram absolute row sums": ("aol", aol),
    "lower clamp of the Frobenius norm of the Gram matrix": ("schatten", schatten),
}


def placed(f: Fields, placement: str | None) -> Any:
    """The scale that a case names; without words for it, the program's own."""
    words = f.take("eps_placement", default=placement)
    norm, scale = PLACEMENT[words]
    assert f.take("preconditioning", default=norm) == norm
    return scale(f.take("eps"))


def stages_of(f: Fields) -> list[list[float]]:
    """The recorded coefficients, one a step."""
    steps, c = f.take("steps"), f.take("coefficients")
    stages = c if isinstance(c[0], list) else [c]
    after = {
        "repeat the last triple": "repeat_last",
        None: "cycle" if len(stages) == 1 else "list",
    }[f.take("after_last", default=None)]
    after = f.take("iteration_mode", default=after)
    endless = {
        "cycle": itertools.cycle(stages),
        "repeat_last": itertools.chain(stages, itertools.repeat(stages[-1])),
        "list": iter(stages),
    }[after]
    schedule = list(itertools.islice(endless, steps))
    assert len(schedule) == steps
    return schedule


def iteration(case: Case, placement: str | None = None, **options: Any) -> Callable:
    """Newton-Schulz with the recorded stages and scale."""
    f = case.fields
    scale = placed(f, placement)
    schedule = stages_of(f)
    f.done()
    return small_side_first(newton_schulz(schedule, scale=scale, **options))


added = functools.partial(iteration, placement="added to the Frobenius norm")
clamped = functools.partial(
    iteration, placement="lower clamp of the Gram absolute row sums", unroll=True
)


def in_bfloat16(case: Case) -> Callable:
    """The published program: inputs cast, then every product in bfloat16."""
    polar = added(case, compute_dtype=jnp.bfloat16)
    return lambda x: polar(x.astype(jnp.bfloat16)).astype(x.dtype)


def with_safety(case: Case) -> Callable:
    """Polar Express, whose list expects a larger norm."""
    f = case.fields
    eps, safety = f.take("eps"), f.take("safety")
    words = re.fullmatch(r"x/\((.+)\*fro\+(.+)\)", f.take("normalisation"))
    assert words
    assert (float(words[1]), float(words[2])) == (safety, eps)
    schedule = stages_of(f)
    f.done()
    scale = frobenius_add(eps, factor=safety)
    return small_side_first(newton_schulz(schedule, scale=scale, unroll=True))


def gram(case: Case) -> Callable:
    f = case.fields
    f.take("square_uses_standard")  # the same numbers either way
    polar = gram_newton_schulz(
        f.take("coefficients"),
        restarts=tuple(f.take("restarts")),
        scale=frobenius_add(f.take("eps")),
    )
    f.done()
    return small_side_first(polar)


def restarts(case: Case, dtype: str) -> None:
    """The metric that restarts are chosen by, on the host."""
    f = case.fields
    assert f.take("singular_values") == "10000 points, logspace(0,-10)"
    out = case.group("out")
    for words in f.take("cases"):
        c = Fields(words, case.path.name)
        want = out.pop(f"metric{c.take('index')}")
        got = restart_metric(
            c.take("coefficients"), c.take("restarts"), c.take("perturbation")
        )
        close(got, want, str(words), **case.tolerance(dtype))
        c.done()
    assert not out
    f.done()


def composed(case: Case) -> Callable:
    """Degree 17; the table is in the arrays, its last stage repeats."""
    f, table = case.fields, case.group("extra/0")
    assert f.take("table").startswith("keys extra/0/A<t>_<i>")
    last = max(int(k[1:]) for k in table if k[0] == "c")
    factors = lambda kind, t: tuple(tuple(table[f"{kind}{t}_{i}"]) for i in range(3))
    stages = [
        Factored(factors("A", t), factors("B", t), tuple(table[f"c{t}"]))
        for t in (min(step, last) for step in range(f.take("steps")))
    ]
    scale = frobenius_add(f.take("eps"), factor=f.take("safety"))
    f.done()
    return small_side_first(degree_17(stages, scale=scale))


def root(case: Case) -> Callable:
    """Entries clipped at a quantile, then the triple of the matrix's shape."""
    f = case.fields
    steps, q, floor = f.take("steps"), f.take("quantile"), f.take("threshold_eps")
    sides = lambda words: tuple(int(side) for side in words.split("x"))
    polar = by_shape(
        {sides(shape): [c] * steps for shape, c in f.take("table").items()},
        otherwise=[f.take("fallback")] * steps,
        kernel=functools.partial(
            newton_schulz, scale=frobenius_add(f.take("eps")), unroll=True
        ),
    )
    f.done()

    def clipped(x: jax.Array) -> jax.Array:
        tau = jnp.quantile(jnp.abs(x), q) + floor
        return small_side_first(polar)(jnp.clip(x, -tau, tau))

    return clipped


def cans_iteration(case: Case) -> Callable:
    """CANS, which returns the tall orientation."""
    f = case.fields
    degree, first = f.take("degree"), f.take("preprocess_steps")
    power = f.take("prescale").removeprefix("||X(X^TX)^")
    assert power == f"{degree // 2}||_F^(1/{degree}) + 1e-7"
    assert f.take("stop") == "||X^TX-I||_F/sqrt(k) <= 1e-6"  # changes nothing after
    schedule = cans(
        f.take("steps"),
        degree=degree,
        first=first,
        delta=f.take("delta"),
        lower=f.take("left"),
    )
    f.done()
    polar = newton_schulz(schedule, scale=gelfand(degree, 1e-7), unroll=True)
    return lambda x: flip(polar(flip(x)).mT).mT


def optax_complex(case: Case, dtype: str) -> None:
    f = case.fields
    scale = placed(f, "added to the norm")
    polar = small_side_first(newton_schulz(stages_of(f), scale=scale))
    f.done()
    width = {"float64": jnp.complex128, "float32": jnp.complex64}[dtype]
    for name, x in case.group("in").items():
        got = jax.jit(polar)(jnp.asarray(x, width))
        close(got, case.group("out")[name], name, **case.tolerance(dtype))


def optax_axes(case: Case, dtype: str) -> None:
    """Tensors of more than two axes, through the layout of optax's words."""
    f = case.fields
    numbers = optax.contrib.MuonDimensionNumbers(
        tuple(np.atleast_1d(f.take("reduction_axis"))),
        tuple(np.atleast_1d(f.take("output_axis"))),
    )
    scale = placed(f, "added to the norm")
    polar = newton_schulz(stages_of(f), scale=scale)
    f.done()
    tx = on_matrices(orthogonalize(polar), layout=from_optax(numbers))
    x = {k: jnp.asarray(v, dtype) for k, v in case.group("in").items()}
    got, _ = jax.jit(tx.update)(x, tx.init(x))
    for name, want in case.group("out").items():
        close(got[name], want, name, **case.tolerance(dtype))


def exact(case: Case) -> Callable[[jax.Array], jax.Array]:
    Fields.done(case.fields)
    return small_side_first(svd())


def op_by_op(kernel: Callable[[Case], Callable]) -> Callable[[Case, str], None]:
    """Replays without a program: an operation is compiled once for all cases."""

    def replay(case: Case, dtype: str) -> None:
        function, out = kernel(case), case.group("out")
        for name, x in case.group("in").items():
            want = out.pop(name)
            close(function(jnp.asarray(x, dtype)), want, name, **case.tolerance(dtype))
        assert not out

    return replay


unrolled = op_by_op(functools.partial(iteration, unroll=True))
KERNELS: dict[str, Callable[[Case], Callable]] = {
    "newton_schulz / jordan": iteration,
    "newton_schulz / jordan, run in bfloat16 as published": in_bfloat16,
    "exact polar factor (SVD)": exact,
}
REPLAYS: dict[str, Callable[[Case, str], None]] = {
    "newton_schulz / you5 (also called dion, quintic)": unrolled,
    **{
        f"newton_schulz / nemo {name}": unrolled
        for name in (
            "simple", "quintic", "polar_express", "cans", "aol", "deepseekv4", "cubic5"
        )
    },
    **{
        f"optax newton_schulz, preconditioning={name}": unrolled
        for name in ("frobenius", "spectral", "aol", "schatten")
    },
    "aol newton_schulz / genetic coefficients": unrolled,
    "aol newton_schulz / last k of you5 (released Turbo-Muon)": op_by_op(clamped),
    "polar_express / paper coefficients": op_by_op(with_safety),
    "polar_express / speedrun coefficients": op_by_op(with_safety),
    "gram newton_schulz": op_by_op(gram),
    "degree-17 composition, 3-product evaluation scheme": op_by_op(composed),
    "root: soft threshold then shape-keyed newton_schulz": op_by_op(root),
    "CANS iteration with Gelfand prescaling": op_by_op(cans_iteration),
    "optax newton_schulz on complex matrices": optax_complex,
    "optax newton_schulz on a 4-D tensor": optax_axes,
    "restart stability metric": restarts,
}  # fmt: skip
