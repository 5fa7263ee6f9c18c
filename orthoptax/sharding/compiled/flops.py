# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of one operation of a compiled program.

Products are exact. Factorizations are the leading terms of the textbooks for one
matrix; those of iterations (eigenvalues, singular values) are customary estimates. A
complex product counts as four real ones, like a complex factorization. Whatever is
linear in the size of its arrays counts as nothing.

Source: Golub and Van Loan, Matrix Computations, 4th edition, sections 3.2, 4.2, 5.2,
8.3 and 8.6.
"""

import functools
import math
import re
from collections.abc import Callable

from orthoptax._check import message
from orthoptax.sharding.compiled.hlo import Computation, Operation, Shape

# What a compiler names a routine, and its cost for one matrix: `a` is the first array
# it takes, `b` the last, `out` the first it returns. Eigenvalues, singular values: with
# vectors.
ROUTINES: dict[str, Callable[[Shape, Shape, Shape], float]] = {
    r"geqrf|QrDecomposition|^Qr$": lambda a, b, out: _qr(*_sides(out)),
    r"orgqr|ungqr": lambda a, b, out: _orgqr(out, b.dims[-1]),
    r"potrf|[Cc]holesky": lambda a, b, out: out.dims[-1] ** 3 / 3,
    r"trsm|[Tt]riangular[-_]?[Ss]olve": lambda a, b, out: (
        a.dims[-1] * out.dims[-1] * out.dims[-2]
    ),
    r"InvertDiagBlocks": lambda a, b, out: out.dims[-1] ** 3 / 3,
    r"getrf|LuDecomposition": lambda a, b, out: _lu(*_sides(out)),
    r"syev|heev": lambda a, b, out: 9 * out.dims[-1] ** 3,
    r"gesdd|gesvd": lambda a, b, out: _svd(*_sides(a)),
}
CUBLAS = '"dot_dimension_numbers"'  # in the backend_config of its products
FREE = {"AllocateBuffer", "AsyncCollectiveDone", "AsyncCollectiveStart"}
FREE |= {"ConcatBitcast", "MoveToDevice", "MoveToHost", "Sharding"}
UNKNOWN = {"fft", "ragged-dot", "recv", "scaled-dot", "send"}  # no formula here


def products(operation: Operation, inside: Computation) -> int:
    """Operations of a product or a convolution; 0 for anything else.

    Args:
      operation: any.
      inside: the computation it stands in, for the shapes it takes.
    Returns: twice the number of multiplications, of which a complex one counts four.
    """
    if operation.opcode == "convolution":
        pairs = _convolution(operation, inside)
    elif operation.opcode == "dot" or CUBLAS in operation.attributes:
        taken = inside.shape(operation, 0).dims
        contracted = math.prod(taken[axis] for axis in _contracted(operation))
        pairs = operation.shapes[0].elements * contracted
    else:
        return 0
    return 2 * pairs * (4 if operation.shapes[0].dtype.startswith("c") else 1)


def factorization(operation: Operation, inside: Computation) -> float | None:
    """Operations of a factorization or a triangular solve; None where none is known.

    Args:
      operation: any.
      inside: the computation it stands in, for the shapes it takes.
    Returns: their number, 0 for what factorizes nothing, or None for a routine that
      does not say what it does.
    """
    if operation.opcode in ("cholesky", "triangular-solve"):
        name = operation.opcode
    elif operation.opcode == "custom-call":
        name = operation.target
    else:
        return None if operation.opcode in UNKNOWN else 0
    if name in FREE or CUBLAS in operation.attributes:
        return 0
    for pattern, cost in ROUTINES.items():
        if re.search(pattern, name):
            taken = [inside.shape(operation, i) for i in range(len(operation.operands))]
            out = operation.shapes[0]
            each = cost(taken[0], taken[-1], out)
            batch = math.prod(out.dims[:-2])
            return each * batch * (4 if out.dtype.startswith("c") else 1)
    return None


def _contracted(operation: Operation) -> tuple[int, ...]:
    """The axes of the first array that a product sums over."""
    if operation.opcode == "dot":
        return operation.integers("lhs_contracting_dims")
    config = operation.attributes.partition(CUBLAS)[2]
    found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', config)
    return tuple(map(int, re.findall(r"\d+", found[1] if found else "")))


def _convolution(operation: Operation, inside: Computation) -> int:
    """Multiplications of a convolution, those by padding and between rows left out.

    The compiler for TPU writes every product as one: contracted axes are the features,
    a batch axis is a window that meets one entry of each row.
    """
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.attributes)
    if found is None:
        raise ValueError(
            message(
                "count",
                f"convolution {operation.name!r} has no dim_labels",
                "dim_labels=bf_io->bf or alike",
                "Pass the text of as_text() as it is",
            )
        )
    taken = inside.shape(operation, 0).dims
    kernel = inside.shape(operation, 1).dims
    out = operation.shapes[0].dims
    window = re.search(r"window=\{([^}]*)\}", operation.attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    pairs = kernel[found[2].index("i")]
    pairs *= out[found[3].index("b")] * out[found[3].index("f")]
    for axis in range(len(out) - 2):
        size, stride, between, apart = (
            int(fields[name].split("x")[axis]) if name in fields else 1
            for name in ("size", "stride", "lhs_dilate", "rhs_dilate")
        )
        pad = fields["pad"].split("x")[axis].split("_")[0] if "pad" in fields else "0"
        pairs *= _meetings(
            taken[found[1].index(str(axis))],
            out[found[3].index(str(axis))],
            (size, stride, between, apart),
            int(pad),
        )
    return pairs


@functools.cache
def _meetings(taken: int, out: int, window: tuple[int, int, int, int], pad: int) -> int:
    """Pairs of a window's entry and an input's entry along an axis, over all places."""
    size, stride, between, apart = window
    end = (taken - 1) * between  # the last entry, with the gaps that dilation makes
    total = 0
    for k in range(size):
        shift = k * apart - pad  # place o meets entry o * stride + shift
        low = max(0, -(shift // stride))
        high = min(out - 1, (end - shift) // stride)
        common = math.gcd(stride, between)
        if low <= high and shift % common == 0:
            first = next(
                o
                for o in range(low, low + between // common)
                if (o * stride + shift) % between == 0
            )
            total += len(range(first, high + 1, between // common))
    return total


def _sides(shape: Shape) -> tuple[int, int]:
    """(longer, shorter) side of a matrix."""
    return max(shape.dims[-2:]), min(shape.dims[-2:])


def _qr(m: int, n: int) -> float:
    return 2 * m * n**2 - 2 * n**3 / 3


def _orgqr(out: Shape, k: int) -> float:
    m, n = out.dims[-2:]
    return 4 * m * n * k - 2 * (m + n) * k**2 + 4 * k**3 / 3


def _lu(m: int, n: int) -> float:
    return m * n**2 - n**3 / 3


def _svd(m: int, n: int) -> float:
    return 6 * m * n**2 + 20 * n**3
