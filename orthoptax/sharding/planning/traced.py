# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a function that is traced and never compiled.

The formulas are those of `flops`; a loop counts as often as it runs, a conditional as
its dearest branch, one on the platform as that platform's. What no result needs counts
too.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from orthoptax.sharding.compiled.flops import ROUTINES
from orthoptax.sharding.compiled.hlo import Shape

Flops = Counter[str]
"""{dtype that the products are computed in: operations}."""

LIBRARY = {  # what JAX calls a factorization: the routines that a compiler makes of it
    "cholesky": ("potrf",),
    "eigh": ("syev",),
    "geqrf": ("geqrf",),
    "householder_product": ("orgqr",),
    "lu": ("getrf",),
    "qr": ("geqrf", "orgqr"),
    "svd": ("gesdd",),
    "triangular_solve": ("trsm",),
}


def traced_flops(
    function: Callable[..., Any], *shapes: Any, platform: str | None = None
) -> Flops:
    """Counts operations of products and factorizations, by the dtype they are done in.

    Args:
      function: of arrays.
      *shapes: trees of `jax.ShapeDtypeStruct`, one an argument; nothing is allocated.
      platform: whose branch of a `lax.platform_dependent` counts: "cpu", "cuda",
        "rocm", "tpu" or another; None: the dearest.
    Returns: {name of a real dtype: operations}. A loop of unknown length counts once.
    Example:
      >>> x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
      >>> power = lambda x: jax.lax.fori_loop(0, 5, lambda i, y: x @ y, x)
      >>> dict(traced_flops(power, x))
      {'float32': 5120}

    Source: the formulas of `orthoptax.sharding.compiled.flops`.
    """
    return flops_of(jax.make_jaxpr(function)(*shapes).jaxpr, platform)


def times(flops: Flops, count: float) -> Flops:
    """The same, several times."""
    scaled: Any = {dtype: count * each for dtype, each in flops.items()}
    return Counter(scaled)  # of floats where they are estimates


def flops_of(jaxpr: Any, platform: str | None = None) -> Flops:
    """The sum over the equations."""
    total: Flops = Counter()
    known: dict[int, int | None] = {}  # {id of a variable: the branch it stands for}
    for equation in jaxpr.eqns:
        if platform and equation.primitive.name == "platform_index":
            branch = _branch(equation.params["platforms"], platform)
            known |= {id(v): branch for v in equation.outvars}
        taken = next((known[id(v)] for v in equation.invars if id(v) in known), None)
        total.update(flops_of_equation(equation, platform, taken))
    return total


def flops_of_equation(
    equation: Any, platform: str | None = None, taken: int | None = None
) -> Flops:
    """One equation and what it calls; of a conditional the branch that is taken."""
    name = equation.primitive.name
    if name == "dot_general":
        return _product(equation)
    if name in LIBRARY:
        return _factorization(equation)
    inside = [flops_of(jaxpr, platform) for jaxpr in programs_within(equation)]
    if name == "cond":
        dearest = max(inside, key=lambda flops: flops.total())
        return dearest if taken is None else inside[taken]
    total = sum(inside, Counter())
    return times(total, equation.params["length"] if name == "scan" else 1)


def _branch(platforms: Sequence[tuple[str, ...] | None], platform: str) -> int | None:
    """Which branch is for a platform, if any; one without names is for all others."""
    fits = (i for i, p in enumerate(platforms) if p is None or platform in p)
    return next(fits, None)


def programs_within(equation: Any) -> Iterator[Any]:
    """The programs within an equation."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            program = getattr(item, "jaxpr", item)
            if hasattr(program, "eqns"):
                yield program


def _product(equation: Any) -> Flops:
    """Twice the multiplications; a complex one counts four."""
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    (contracted, _), _ = equation.params["dimension_numbers"]
    pairs = math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
    return Counter({_real(left.dtype): 2 * pairs * _fold(left.dtype)})


def _factorization(equation: Any) -> Flops:
    """The textbook's leading terms, once a matrix."""
    shape = lambda aval: Shape("", tuple(aval.shape))
    first, last = (equation.invars[i].aval for i in (0, -1))
    matrices = [v.aval for v in equation.outvars if v.aval.ndim >= 2] or [first]
    total = 0.0
    for routine in LIBRARY[equation.primitive.name]:
        taken, out = shape(last), shape(matrices[0])
        if routine == "geqrf":  # packed: as large as what it takes
            out = shape(first)
        elif routine == "orgqr":  # it takes one number a reflection
            taken = Shape("", (min(first.shape[-2:]),))
        cost = next(c for name, c in ROUTINES.items() if re.search(name, routine))
        total += cost(shape(first), taken, out)
    batch = math.prod(first.shape[:-2])
    return Counter({_real(first.dtype): total * batch * _fold(first.dtype)})


def _real(dtype: Any) -> str:
    """The name of the real dtype of real or complex numbers."""
    return jnp.finfo(dtype).dtype.name if _fold(dtype) > 1 else jnp.dtype(dtype).name


def _fold(dtype: Any) -> int:
    """Real products in a product."""
    return 4 if jnp.issubdtype(dtype, jnp.complexfloating) else 1
