# SPDX-License-Identifier: Apache-2.0
"""Matrices to orthogonalize: the shapes of models, and spectra.

Every matrix is U diag(s) V^T with U and V drawn once for a shape, so that its polar
factor is known: U V^T over the singular values that are not zero, of the matrix before
it is rounded to the dtype of use.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from _momentum import recorded

LARGE = 16  # singular values of a cluster
FLOOR = 1e-3  # of what is low rank or a cluster


class Shape(NamedTuple):
    """A matrix, or a batch, of a model.

    full: (..., rows, cols), rows no more than cols. run: the same with both divided by
    what lets two cores run it, which what is timed has.
    """

    full: tuple[int, ...]
    run: tuple[int, ...]

    def __str__(self) -> str:
        return "x".join(map(str, self.full))


class Sample(NamedTuple):
    """x: (batch, m, n) in float64. factor: its polar factor. rank: values above 0."""

    spectrum: str
    x: np.ndarray
    factor: np.ndarray
    rank: int


class Model(NamedTuple):
    """shapes: of its matrices. divide, quick: what both sides are divided by to run."""

    shapes: tuple[tuple[int, ...], ...]
    divide: int = 1
    quick: int = 1


MODELS = {
    "gpt2": Model(((768, 768), (768, 3072)), quick=8),
    "llama": Model(((1024, 4096), (4096, 4096), (4096, 14336)), divide=8, quick=32),
    "moe": Model(((64, 1024, 2048),), divide=4, quick=32),
    "conv": Model(((64, 576), (128, 1152), (256, 2304), (512, 4608)), quick=16),
}
"""GPT-2 small; Llama 3 8B; a layer of OLMoE's 64 experts; 3x3 kernels of a ResNet."""

GIVEN: dict[str, Callable[[], Mapping[str, np.ndarray]]] = {"momentum": recorded}
"""{model: its matrices by name}, where they are known and not drawn: (rows, cols) with
rows no more than columns. Matrices of one shape are a batch. This is the place for
momentum recorded in training; the option `model` of `polar.py` names the keys.
"""

SPECTRA: dict[str, Callable[[int, int], np.ndarray]] = {
    "geometric": lambda m, n: np.geomspace(1, 1e-3, m),
    "gaussian": lambda m, n: _gaussian(m, n),
    "ill-conditioned": lambda m, n: np.geomspace(1, 1e-12, m),
    "low-rank": lambda m, n: _above(np.geomspace(1, 0.1, -(-m // 16)), m),
    "cluster": lambda m, n: _above(np.ones(min(m, LARGE)), m),
    "power-law": lambda m, n: 1 / np.arange(1, m + 1),
    "rank-one": lambda m, n: (np.arange(m) == 0).astype(float),
}
"""{name: singular values of an (m, n) matrix, m <= n, from the largest down}.

Geometric from 1 to 1e-3; those of normal entries; geometric to 1e-12; a sixteenth from
1 to 0.1 above a floor; sixteen of 1 above a floor; 1/k; one and zeros.
"""


def shapes_of(model: str, *, quick: bool) -> list[Shape]:
    """What is run is what is counted where it is quick, or the matrices are given."""
    if model in GIVEN:
        found = Counter(x.shape for x in GIVEN[model]().values())
        return [Shape((count, *s), (count, *s)) for s, count in sorted(found.items())]
    shapes, divide, small = MODELS[model]
    if quick:
        return [Shape(s, s) for s in (_over(s, small) for s in shapes)]
    return [Shape(s, _over(s, divide)) for s in shapes]


def samples(shape: tuple[int, ...], spectra: tuple[str, ...]) -> Iterator[Sample]:
    """One of this shape for each spectrum; every matrix has its own U and V."""
    *batch, m, n = shape
    rng = np.random.default_rng(0)
    count = int(np.prod(batch))
    left = [np.linalg.qr(rng.standard_normal((m, m)))[0] for _ in range(count)]
    right = [np.linalg.qr(rng.standard_normal((n, m)))[0].T for _ in range(count)]
    u, vt = np.stack(left), np.stack(right)
    for name in spectra:
        values = SPECTRA[name](m, n)
        rank = int(np.count_nonzero(values))
        factor = u[..., :rank] @ vt[..., :rank, :]
        yield Sample(name, (u * values) @ vt, factor, rank)


def given(model: str, shape: Shape) -> Iterator[Sample]:
    """The matrices of this shape, with their factors by singular values in float64."""
    matrices = GIVEN[model]().values()
    x = np.stack([x for x in matrices if x.shape == shape.full[1:]]).astype(float)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    least = max(x.shape[-2:]) * np.finfo(np.float32).eps * s[:, :1]  # rounding below
    kept = s > least
    factor = (u * kept[:, None, :]) @ vt
    yield Sample(model, x, factor, int(kept.sum(-1).min()))


def _over(shape: tuple[int, ...], divisor: int) -> tuple[int, ...]:
    """The matrix divided, a batch left as it is."""
    return (*shape[:-2], *(max(1, side // divisor) for side in shape[-2:]))


@functools.cache
def _gaussian(m: int, n: int) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((m, n))
    return np.linalg.svd(x, compute_uv=False)


def _above(values: np.ndarray, m: int) -> np.ndarray:
    """These, and the floor for the rest."""
    return np.append(values, np.full(m - len(values), FLOOR))
