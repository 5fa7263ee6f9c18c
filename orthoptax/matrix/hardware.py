# SPDX-License-Identifier: Apache-2.0
"""What platforms multiply with: prices that were timed, and how products round."""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import message
from orthoptax._types import Products
from orthoptax.matrix.symmetric import multiplications


class Eigen(NamedTuple):
    """Time of an eigendecomposition of an (m, m) matrix over that of an m^3 product.

    alone: with the machine to itself. loaded: with other programs on its cores. None:
    not timed. The loaded price is the one that is weighed, and without it nothing is
    offered: threads of a library that wait for each other take many times as long.
    """

    alone: float | None = None
    loaded: float | None = None


class Hardware(NamedTuple):
    """What multiplies on a platform.

    halve: the least number of rows for which products with a Hermitian result are
    halved once; twice from double that on. halve_gram: the same in the Gram form; None:
    `halve`. halved: what those cost, once and twice, compared with a plain product;
    None: 3/4 and 5/8, their multiplications. products: who computes them from `halve`
    on instead, such as a kernel. price: what that costs.
    eigh: price of an eigendecomposition in products of its size, which offers `eigh`,
    or an `Eigen`; None: not offered. roundings: unit of rounding of float32 products
    by `lax.Precision`, where it is not that of the platform (`rounding`).
    """

    halve: int = 256
    products: Products | None = None
    price: float = 0.5
    halved: tuple[float, float] | None = None
    eigh: float | Eigen | None = None
    roundings: Mapping[lax.Precision, float] | None = None
    halve_gram: int | None = None

    def levels(self, rows: int, *, gram: bool = False) -> int:
        """How often products with this many rows are halved; -1: by `products`."""
        least = self.halve
        if gram and self.halve_gram is not None:
            least = self.halve_gram
        levels = (rows >= least) + (rows >= 2 * least)
        return -1 if levels and self.products is not None else levels

    def hermitian(self, rows: int, *, gram: bool = False) -> float:
        """Price of a product with a Hermitian result, compared with a plain one."""
        levels = self.levels(rows, gram=gram)
        if levels < 0:
            return self.price
        if levels and self.halved is not None:
            return self.halved[levels - 1]
        return multiplications(rows, 1, levels) / rows**2

    def eigen(self) -> Eigen:
        """Prices of an eigendecomposition; a number is one to be weighed by."""
        if isinstance(self.eigh, Eigen):
            return self.eigh
        return Eigen(None, self.eigh)


_NEVER = 2**31
HARDWARE: Mapping[str, Hardware] = types.MappingProxyType(
    {
        "default": Hardware(halve=4096),
        "cpu": Hardware(
            halve=1024,
            halve_gram=_NEVER,
            halved=(0.9, 0.84),
            eigh=Eigen(alone=None, loaded=60.0),
        ),
    }
)
"""{platform: what was timed there, and "default": nothing timed}.

"default": halved products are three or seven products in the place of one, each to be
compiled, so they stay as large as 2048 until somebody times them; `Hardware()` weighs
operations alone. "cpu": two cores of an EPYC, jax 0.10.2. Halved products gain 8 to 13
percent in the plain form at 768 and 1024 rows, which below 1024 is not worth a second
of compilation, and nothing in the Gram form. The price of an eigendecomposition is
below all that were seen beside two programs that compute. By benchmarks/hardware.py;
its tables, with dates and commands, are benchmarks/results/hardware-cpu.txt.
"""

_H = lax.Precision
ROUNDINGS: Mapping[str, Mapping[lax.Precision, float]] = types.MappingProxyType(
    {
        "cpu": {_H.DEFAULT: 2.0**-24, _H.HIGH: 2.0**-24, _H.HIGHEST: 2.0**-24},
        "cuda": {_H.DEFAULT: 2.0**-11, _H.HIGH: 2.0**-11, _H.HIGHEST: 2.0**-24},
        "rocm": {_H.DEFAULT: 2.0**-11, _H.HIGH: 2.0**-11, _H.HIGHEST: 2.0**-24},
        "tpu": {_H.DEFAULT: 2.0**-8, _H.HIGH: 2.0**-16, _H.HIGHEST: 2.0**-24},
        "default": {_H.DEFAULT: 2.0**-8, _H.HIGH: 2.0**-11, _H.HIGHEST: 2.0**-24},
    }
)
"""{platform: {precision: unit of rounding of the operands of float32 products}}.

GPUs: TensorFloat-32, 11 bits, below HIGHEST; those without it multiply in float32, as
`Hardware(roundings=...)` can say. TPUs: one pass of bfloat16, 8 bits, three, or six.
Two parts of 8 bits keep all of an operand but 2^-17, and the product that three passes
leave out is 2^-16. CPUs: float32 always. "default": the least exact of all.

Source: documentation of `jax.lax.Precision`.
"""

_PRESETS = {
    lax.DotAlgorithmPreset.BF16_BF16_F32: 2.0**-8,
    lax.DotAlgorithmPreset.F16_F16_F32: 2.0**-11,
    lax.DotAlgorithmPreset.TF32_TF32_F32: 2.0**-11,
    lax.DotAlgorithmPreset.BF16_BF16_F32_X3: 2.0**-16,
    lax.DotAlgorithmPreset.TF32_TF32_F32_X3: 2.0**-22,
    lax.DotAlgorithmPreset.BF16_BF16_F32_X6: 2.0**-24,
    lax.DotAlgorithmPreset.BF16_BF16_F32_X9: 2.0**-24,
    lax.DotAlgorithmPreset.F32_F32_F32: 2.0**-24,
    lax.DotAlgorithmPreset.F64_F64_F64: 2.0**-53,
}  # whatever the platform

_SINGLE = 2.0**-24


def rounding(
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    *,
    platform: str = "default",
    hardware: Hardware | None = None,
) -> float:
    """Unit of rounding that the operands of a product have; sums are in float32.

    No process-wide setting is read: a precision of None is HIGHEST, as in every kernel
    here.

    Args:
      dtype: of the operands; None: float32, the only one whose products depend on a
        `lax.Precision`.
      precision: as that of `lax.dot_general`; of a pair the less exact counts.
      platform: a key of `ROUNDINGS`; others are taken for "default".
      hardware: its `roundings` hold instead of the platform's.
    Returns: half the distance from 1 to the next number.
    Raises: ValueError for a precision whose products are not known here.
    Example:
      >>> import math
      >>> units = rounding(precision="high", platform="tpu"), rounding("bfloat16")
      >>> [math.log2(u) for u in units]
      [-16.0, -8.0]

    Source: ours.
    """
    own = float(jnp.finfo(jnp.float32 if dtype is None else dtype).eps) / 2
    if isinstance(precision, tuple) and len(precision) == 2:
        pair: tuple[Any, ...] = precision
        of = lambda p: rounding(dtype, p, platform=platform, hardware=hardware)
        return max(of(p) for p in pair)
    found = _known(precision)
    if found in _PRESETS:
        return max(own, _PRESETS[found])
    if own != _SINGLE:
        return own
    units: dict[Any, float] = dict(ROUNDINGS.get(platform, ROUNDINGS["default"]))
    if hardware is not None and hardware.roundings is not None:
        units |= hardware.roundings
    return max(own, units[found])


def _known(precision: lax.PrecisionLike) -> lax.Precision | lax.DotAlgorithmPreset:
    """The precision as a member of its enumeration; None is HIGHEST."""
    if precision is None:
        return lax.Precision.HIGHEST
    if precision in _PRESETS:
        return precision
    if isinstance(precision, str) and precision in _NAMES:
        return _NAMES[precision]
    try:
        return lax.Precision(precision)
    except ValueError as error:
        raise ValueError(
            message(
                "rounding",
                f"how products of precision={precision!r} round is not known",
                "a lax.Precision, or one of " + ", ".join(_NAMES),
                "Pass one of them",
            )
        ) from error


_NAMES = {preset.name: preset for preset in _PRESETS}
