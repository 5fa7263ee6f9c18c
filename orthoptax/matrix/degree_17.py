# SPDX-License-Identifier: Apache-2.0
"""Odd polynomials of degree 17 from four products: steeper a stage than quintics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import is_callable, message
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Polar, Scale
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.forms import plus_identity
from orthoptax.matrix.norms import frobenius


class Factored(NamedTuple):
    """An odd polynomial of degree 17: p(x) = x (sum_k out_k Y_k), Y_0 = 1, Y_1 = x^2.

    left, right: for i = 0, 1, 2 the i + 2 coefficients of the two factors of
    Y_(i+2) = (sum_j left_ij Y_j) (sum_j right_ij Y_j). out: five coefficients.
    """

    left: tuple[Any, ...]
    right: tuple[Any, ...]
    out: Any


_SAFETY = 1.01  # divides what the stages before the last return

DEGREE_17 = (
    Factored(
        (
            (0.9920725714629822, -1.42355161315578),
            (0.02156009628887853, -0.04239438887299573, -0.034762121962591784),
            (0.5782445888880933, 0.7632450428346828, -0.2514480537090298,
             1.639011883986015),
        ),
        (
            (5.73590379383376, -13.338110773060512),
            (24.02927670210541, -6.907239169823372, -8.14946145667813),
            (0.016007261285642154, -0.5889428668848198, -1.510195672285879,
             2.8974433977565046),
        ),
        tuple(c / _SAFETY for c in (
            1.0257468033619634, 0.9729569573187066, 0.9898734531352196,
            0.9877552911804646, 0.9728990487959269,
        )),
    ),
    Factored(
        (
            (0.8672948023312668, -0.6983651863198119),
            (-0.011147442390816923, 0.026052575855847686, -0.0005143518624089846),
            (0.6047708606759246, 0.04113934737601932, 0.69264319658992,
             1.7334074742081027),
        ),
        (
            (4.519126197164729, -13.713608530867727),
            (24.268301039970623, -5.844493493470661, -8.341408098223443),
            (-0.002604023285233293, -4.578080382373698, 1.1704804326854277,
             2.9419831966072283),
        ),
        tuple(c / _SAFETY for c in (
            0.6936729912321646, 2.1692969375003366, 0.49324625143658657,
            0.7533365827421779, 0.5025503796843704,
        )),
    ),
    Factored(
        (
            (0.48499248964901626, -0.7648652723607008),
            (0.01638639932145083, 0.014500398865087414, -0.00029543534808686525),
            (0.2499432034841645, 0.21502562612336562, 0.6308913379628257,
             1.895073350063077),
        ),
        (
            (4.486474265947365, -13.70870849271027),
            (24.269950387034296, -5.8409579811360235, -8.339063897214993),
            (0.32522385614653765, -4.771746277525896, 1.106602673622827,
             2.6697330380345763),
        ),
        tuple(c / _SAFETY for c in (
            0.28159343092175276, 2.5303924477474244, 0.2937529185125621,
            1.2304098431120205, 0.6997302474789001,
        )),
    ),
    Factored(
        (
            (0.4929170900427789, -0.7499352697036465),
            (0.020562071154894307, 0.011700480501862913, -0.00011802442667016373),
            (0.32354990881808676, 0.19408243607904344, 0.6219875459906818,
             1.8776985217983289),
        ),
        (
            (4.486945647939661, -13.708011969723078),
            (24.269059078798783, -5.842347944284975, -8.34068890215326),
            (0.30036122330608345, -4.762906071475779, 1.0474753631117533,
             2.704000628772448),
        ),
        (0.2084932179463917, 2.5056960361205407, 0.4275992203696618,
         1.1812687356813238, 0.6682516744129567),
    ),
)  # fmt: skip
"""Four stages; the first three end in 0.969-1.011, all in 1-1. The last may repeat.

Expects a scale that divides by 1.01 times the norm. Source: Emrik3/degree17PolarExpress
@3fe80ef, muon.py, with its division by 1.01 done.
"""


def degree_17(
    stages: Sequence[Factored] | None = None,
    *,
    scale: Scale | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Polar:
    """Few stages of high degree: three cost five quintics if square, less if wide.

        Y_0, Y_1 <- I, X X^H;   Y_(i+2) <- (sum_j a_ij Y_j) (sum_j b_ij Y_j),  i < 3
        X <- (sum_k c_k Y_k) X

    The factored form needs three products of the small side, where powers of X X^H have
    coefficients in the millions that cancel.

    Args:
      stages: None: the first three of `DEGREE_17`; two are no substitute. Static.
      scale: divides X before the first stage, and may hand on its X X^H; None:
        `frobenius(factor=1.01)`. Static.
      compute_dtype: what X is rounded to in products with it; the (m, m) side stays in
        float32 or wider, as its sums cancel. None: float32 for 16-bit input, else the
        input's. Static.
      precision: of every product; None means HIGHEST. Static.
    Returns: a `Polar`; each matrix of a batch is its own. 0 goes to 0.
    Raises: ValueError if there is no stage, or one has not these lengths.
    Example:
      >>> import jax.numpy as jnp
      >>> polar = degree_17(DEGREE_17)
      >>> polar(jnp.diag(jnp.asarray([3.0, -2.0]))).round(3).tolist()
      [[1.0, 0.0], [0.0, -1.0]]

    Deviations: the authors run it in bfloat16 throughout and add 1e-7 to the norm.
    Source: Emrik3/degree17PolarExpress@3fe80ef, muon.py; Amsel et al., The Polar
      Express, arXiv:2505.16932.
    """
    stages = DEGREE_17[:3] if stages is None else tuple(stages)
    _check(stages)
    table = jax.tree.map(lambda *c: np.asarray(c), *stages)  # stages along axis 0
    scale = frobenius(factor=_SAFETY) if scale is None else scale
    is_callable("degree_17", "scale", scale, "frobenius()")

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        work = work_dtype(x.dtype, compute_dtype)
        wide = work_dtype(work)
        inner = inner.computing(work, precision)
        small = inner.computing(wide, precision)
        y, gram, _ = scale(x.astype(wider(x.dtype, wide)), inner)
        coefficients = jax.tree.map(lambda c: jnp.asarray(c).astype(wide), table)

        def stage(y: jax.Array, p: Factored, gram: jax.Array | None) -> jax.Array:
            powers = [inner.gram(y) if gram is None else gram]  # Y_1, Y_2, ...
            for a, b in zip(p.left, p.right, strict=True):
                factors = (plus_identity(_sum(c, powers), c[0]) for c in (a, b))
                powers.append(small.matmul(*factors))
            poly = _sum(p.out, powers)
            y = p.out[0] * y.astype(wide) + inner.matmul(poly, y)  # I apart: exact
            return y.astype(work)

        y = y.astype(work)
        if gram is not None:
            first = jax.tree.map(lambda c: c[0], coefficients)
            coefficients = jax.tree.map(lambda c: c[1:], coefficients)
            y = stage(y, first, gram)
        if gram is None or len(stages) > 1:
            y, _ = lax.scan(lambda y, p: (stage(y, p, None), None), y, coefficients)
        return y.astype(x.dtype)

    return polar


def _sum(c: jax.Array, powers: list[jax.Array]) -> jax.Array:
    """c_1 Y_1 + c_2 Y_2 + ..., without the identity."""
    total = c[1] * powers[0]
    for ck, y in zip(c[2:], powers[1:], strict=True):
        total = total + ck * y
    return total


def _check(stages: Sequence[Factored]) -> None:
    """Raises unless every stage has coefficients for three products."""
    lengths = [[len(c) for c in (*s[0], *s[1], s[2])] for s in stages]
    if not stages or any(n != [2, 3, 4, 2, 3, 4, 5] for n in lengths):
        raise ValueError(
            message(
                "degree_17",
                f"stages with coefficients in numbers of {lengths} are not usable",
                "stages of 2, 3, 4 left, 2, 3, 4 right and 5 output coefficients",
                "Pass for example orthoptax.matrix.DEGREE_17",
            )
        )
