# SPDX-License-Identifier: Apache-2.0
"""What a polar kernel costs, and how far from the polar factor it ends."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _matrices import Sample, Shape
from _polars import Entry
from _report import Clock, clock, doing, median, side_by_side

from orthoptax.sharding import count


class Cost(NamedTuple):
    """Of one call at full size."""

    flops: float
    temporaries: float
    compiling: Clock


class Error(NamedTuple):
    """The worst of a batch, or its mean of means; values are those that should be 1."""

    distance: float
    cosine: float
    smallest: float
    mean: float
    largest: float


class Line(NamedTuple):
    """What is known of one kernel for one shape; errors are by spectrum."""

    cost: Cost
    time: Clock
    errors: dict[str, Error]

    def over_spectra(self) -> Error:
        """The means, and the extreme singular values."""
        found = [np.array(column) for column in zip(*self.errors.values(), strict=True)]
        distance, cosine, smallest, mean, largest = found
        return Error(
            distance.mean(), cosine.mean(), smallest.min(), mean.mean(), largest.max()
        )


Lines = dict[str, Line]


def build(entry: Entry, shape: tuple[int, ...], dtype: str) -> tuple[Any, Clock]:
    """The compiled kernel, and what that took."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    kernel = entry.make(dtype)
    return clock(lambda: jax.jit(lambda x: kernel(x)).lower(x).compile())


def measure(
    shape: Shape,
    entries: dict[str, Entry],
    drawn: Iterable[Sample],
    dtype: str,
    repeats: int,
) -> Lines:
    """Every kernel on one shape; calls timed so many times, on the first spectrum.

    Kernels that factor a matrix take long: theirs are timed once for each spectrum.
    """
    title = f"{shape} {dtype}"
    costs, programs = {}, {}
    for name, entry in entries.items():
        with doing(f"{title}: compile {name}"):
            program, spent = build(entry, shape.full, dtype)
            found = count(program)
            costs[name] = Cost(found.flops, found.temp_bytes or 0, spent)
            same = shape.run == shape.full
            programs[name] = program if same else build(entry, shape.run, dtype)[0]
    times: dict[str, Clock] = {}
    long: dict[str, list[Clock]] = {}
    errors: dict[str, dict[str, Error]] = {name: {} for name in entries}
    taken: dict[str, list[float]] = {}
    for sample in drawn:
        x = jnp.asarray(sample.x.reshape(shape.run), dtype)
        calls = {k: functools.partial(p, x) for k, p in programs.items()}
        if not times:
            short = {k: call for k, call in calls.items() if not entries[k].factors}
            with doing(f"{title}: {repeats} calls of each, and one not counted"):
                clocks = side_by_side(repeats, *short.values())
            times = dict(zip(short, clocks, strict=True))
        with doing(f"{title}: errors, {sample.spectrum}"):
            for name, call in calls.items():
                found, spent = clock(call)
                long.setdefault(name, []).append(spent)
                errors[name][sample.spectrum] = error(found, sample)
                takes = entries[name].taken
                if takes is not None:
                    taken.setdefault(name, []).append(takes(x, shape.full))
    times = {name: times.get(name) or median(long[name]) for name in entries}
    for name, flops in taken.items():
        costs[name] = costs[name]._replace(flops=float(np.mean(flops)))
    return {k: Line(costs[k], times[k], errors[k]) for k in entries}


def error(found: jax.Array, sample: Sample) -> Error:
    """How far the result is from the polar factor, in float64."""
    o = np.asarray(found, np.float64).reshape(sample.factor.shape)
    norm = lambda x: np.linalg.norm(x, axis=(-2, -1))
    size = norm(sample.factor)
    cosine = np.sum(o * sample.factor, (-2, -1)) / size / norm(o)
    squares = np.linalg.eigvalsh(o @ o.mT)[..., -sample.rank :]
    values = np.sqrt(np.maximum(squares, 0))
    distance = norm(o - sample.factor) / size
    return Error(
        distance.max(), cosine.min(), values.min(), values.mean(), values.max()
    )
