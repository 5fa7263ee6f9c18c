# SPDX-License-Identifier: Apache-2.0
"""From the recorded words to our constructors: generators, QR, bounds on spectra."""

import functools
import math
import string
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from orthoptax.matrix import (
    POLAR_EXPRESS_8,
    cans_schedule,
    cholesky_qr,
    clipped_decay,
    frobenius_max,
    hard_cap,
    householder_qr,
    minimax,
    newton_schulz,
    one_sided_polar,
    polar_express,
    randomized_cholesky_qr,
    row_ball,
    spectral_clip,
)
from tests.golden.replay import Case, Fields, close
from tests.zoo import QUICKLY

EIGHT = newton_schulz(POLAR_EXPRESS_8, scale=frobenius_max(1e-15))
"""What those functions orthogonalize with: 'nemo polar_express, 8 steps'."""


def listed(case: Case) -> Iterator[tuple[str, Fields]]:
    """Each listed argument set, with the name its outputs have."""
    f = case.fields
    found = [Fields(values, case.path.name) for values in f.take("cases")]
    f.take("bisection_tolerance_on_delta", default=None)  # of the reference's search
    f.done()
    seen = set()
    for fields in found:
        name = fields.take("name", "index")
        seen.add(str(name).lstrip(string.ascii_lowercase))
        yield name, fields
        fields.done()
    outputs = {k.lstrip(string.ascii_lowercase) for k in case.group("out")}
    assert outputs == seen


def minimax_single(case: Case, dtype: str) -> None:
    near = functools.partial(close, **case.tolerance(dtype))
    for i, f in listed(case):
        p = minimax(f.take("degree"), f.take("lower"), f.take("upper"))
        near(p.coefficients, case.arrays[f"out/p{i}"], f"p{i}")
        near(p.error, case.arrays[f"out/err{i}"], f"err{i}")


def cans_delta(case: Case, dtype: str) -> None:
    near = functools.partial(close, **case.tolerance(dtype))
    for i, f in listed(case):
        found = cans_schedule(f.take("steps"), f.take("degree"), f.take("delta"))
        near(found.stages, case.arrays[f"out/c{i}"], f"c{i}")
        near(found.lower, case.arrays[f"out/left{i}"], f"left{i}")


def greedy(case: Case, dtype: str) -> None:
    for name, f in listed(case):
        stages = polar_express(
            f.take("steps"),
            degree=f.take("degree"),
            lower=f.take("lower"),
            safety=f.take("safety"),
            cushion=f.take("cushion"),
            end_is_largest=True,
        )
        close(stages, case.arrays[f"out/{name}"], name, **case.tolerance(dtype))


def orthonormal_columns(make: Callable[[Case, str, str], Callable]) -> Callable:
    """A replay of every input, up to the sign of each column."""

    def replay(case: Case, dtype: str) -> None:
        inputs, outputs = case.group("in"), case.group("out")
        assert inputs
        assert set(inputs) == set(outputs)
        run = lambda xs: {k: make(case, k, dtype)(x) for k, x in xs.items()}
        xs = {k: jnp.asarray(x, dtype) for k, x in inputs.items()}
        got = jax.jit(run, compiler_options=QUICKLY)(xs)
        for name, want in outputs.items():
            q = np.asarray(got[name], np.float64)
            sign = np.where(np.sum(q * want, axis=-2, keepdims=True) < 0, -1, 1)
            close(sign * q, want, name, **case.tolerance(dtype))

    return replay


def householder(case: Case, name: str, dtype: str) -> Callable:
    del name, dtype
    case.fields.done()
    return householder_qr()


def cholesky(case: Case, name: str, dtype: str) -> Callable:
    del name, dtype
    case.fields.done()
    return cholesky_qr()


def randomized(case: Case, name: str, dtype: str) -> Callable:
    f = case.fields
    oversample = f.take("oversample")
    rows = f.take("sketch_rows")
    assert rows == f"128*ceil({oversample}*cols/128)"
    assert f.take("sketch_std") == "1/sqrt(sketch_rows)"
    f.done()
    sketch = case.group("extra/0/sketch").get(name)
    if sketch is None:  # recorded for the small inputs; the result is that of any
        return randomized_cholesky_qr(oversample)
    cols = case.arrays[f"in/{name}"].shape[-1]
    assert len(sketch) == 128 * math.ceil(oversample * cols / 128)
    return randomized_cholesky_qr(oversample, sketch=jnp.asarray(sketch, dtype))


def together(make: Callable[[Case], Callable]) -> Callable:
    """A replay of every input, all in one program: most of the time is compilation."""

    def replay(case: Case, dtype: str) -> None:
        inputs, outputs = case.group("in"), case.group("out")
        assert inputs
        assert set(inputs) == set(outputs)
        function = make(case)
        run = lambda xs: {name: function(x) for name, x in xs.items()}
        xs = {name: jnp.asarray(x, dtype) for name, x in inputs.items()}
        got = jax.jit(run, compiler_options=QUICKLY)(xs)
        for name, want in outputs.items():
            close(got[name], want, name, **case.tolerance(dtype))

    return replay


def clip(case: Case) -> Callable:
    f = case.fields
    assert f.take("msign") == "nemo polar_express, 8 steps"
    bounds = f.take("sigma_min"), f.take("sigma_max")
    f.done()
    return spectral_clip(*bounds, polar=EIGHT)


def hardcap(case: Case) -> Callable:
    f = case.fields
    assert f.take("msign") == "nemo polar_express, 8 steps"
    cap = f.take("beta")
    f.done()
    return hard_cap(cap, polar=EIGHT)


def decay(case: Case) -> Callable:
    f = case.fields
    cap, strength = f.take("beta"), f.take("c")
    f.done()
    return clipped_decay(cap, strength, polar=EIGHT)


def one_sided(case: Case) -> Callable:
    f = case.fields
    polar = one_sided_polar(
        left={"left": True, "right": False}[f.take("side")],
        alpha=f.take("alpha"),
        center=f.take("center_rows"),
        eps=f.take("eps"),
    )
    factor = f.take("extra_scale_factor")
    f.done()
    return lambda x: factor * polar(x)


def center(x: jax.Array) -> jax.Array:
    """Columns whose mean over the rows is zero."""
    return x - jnp.mean(x, axis=-2, keepdims=True)


def pure_functions(case: Case, dtype: str) -> None:
    """Several functions of each input; an empty record was not evaluated."""
    f = case.fields
    rows = row_ball(frobenius_max(f.take("row_norm_eps")))
    sided: Any = functools.partial(one_sided_polar, eps=f.take("polargrad_eps"))
    functions = {
        "row_norm": rows,
        "row_norm_centered": lambda x: center(rows(center(x))),
        "polargrad_left_alpha1": sided(left=True, alpha=1.0),
        "polargrad_right_alpha05": sided(left=False, alpha=0.5),
        "spectral_clip": spectral_clip(*f.take("spectral_clip"), polar=EIGHT),
        "spectral_hardcap": hard_cap(f.take("spectral_hardcap"), polar=EIGHT),
    }
    f.done()
    outputs = {k: v for k, v in case.group("out").items() if v.size}
    assert len(outputs) > len(functions)
    xs = {k: jnp.asarray(v, dtype) for k, v in case.group("in").items()}

    def run(xs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            key: functions[function](xs[name])
            for key in outputs
            for name, function in [key.split("/")]
        }

    got = jax.jit(run, compiler_options=QUICKLY)(xs)
    for key, want in outputs.items():
        close(got[key], want, key, **case.tolerance(dtype))


_GENERATOR = "coefficient generator: "
REPLAYS = {
    _GENERATOR + "CANS delta-orthogonalisation": cans_delta,
    _GENERATOR
    + "one minimax odd polynomial approximating 1 on [lower, upper]": minimax_single,
    _GENERATOR + "greedy composition of minimax odd polynomials": greedy,
    "column orthonormalisation by Householder QR": orthonormal_columns(householder),
    "column orthonormalisation by Cholesky QR": orthonormal_columns(cholesky),
    "column orthonormalisation by randomized Cholesky QR": orthonormal_columns(
        randomized
    ),
    "one-sided polar gradient (eigendecomposition of the Gram matrix)": together(
        one_sided
    ),
    "spectral clip": together(clip),
    "spectral hardcap": together(hardcap),
    "spectral clipped weight decay": together(decay),
    "emerging_pure_functions": pure_functions,
}
