# SPDX-License-Identifier: Apache-2.0
"""What a compiled program costs on one device: collectives, products, factorizations.

Loops are multiplied out, which `cost_analysis` does not: it takes their bodies once.
"""

import dataclasses
from collections.abc import Iterable

import jax

from orthoptax._check import message
from orthoptax.sharding.compiled.collectives import Collective, collective
from orthoptax.sharding.compiled.flops import factorization, products
from orthoptax.sharding.compiled.hlo import Computation, Module, Operation, parse
from orthoptax.sharding.compiled.trips import trip_count

CALLS = ("calls", "to_apply", "called_computations")
BRANCHES = ("branch_computations", "true_computation", "false_computation")
HEADINGS = ("collective", "group", "bytes", "times", "ring bytes", "where")


@dataclasses.dataclass(frozen=True)
class Counted:
    """What one run of a compiled program costs on one device; its text is a table.

    Args:
      collectives: each `Collective` of the program; of a conditional, those of the
        branch with most bytes.
      flops: operations of products, convolutions and factorizations; of a conditional,
        those of the branch with most. Nothing that is linear in its arrays.
      factorization_flops: those of them that are factorizations and triangular solves
        in library routines: leading terms or, for eigenvalues and singular values,
        estimates.
      unknown_trips: loops, with something to count in them, that were counted as one
        run because the text does not say how often they run. Devices that run such a
        loop different times wait for each other at its collectives forever.
      not_counted: names of routines whose operations are unknown.
      temp_bytes: memory for temporaries, as the compiler planned it; None for text.
    """

    collectives: tuple[Collective, ...] = ()
    flops: float = 0
    factorization_flops: float = 0
    unknown_trips: int = 0
    not_counted: tuple[str, ...] = ()
    temp_bytes: int | None = None

    @property
    def number(self) -> int:
        """Executions of collectives."""
        return sum(c.times for c in self.collectives)

    @property
    def result_bytes(self) -> int:
        """Bytes of the results of all executions."""
        return sum(c.times * c.result_bytes for c in self.collectives)

    @property
    def ring_bytes(self) -> float:
        """Bytes that a device receives in all executions, by ring algorithms."""
        return sum(c.times * c.ring_bytes for c in self.collectives)

    @property
    def largest(self) -> int:
        """Bytes of the largest result of a collective; 0 if there is none."""
        return max((c.result_bytes for c in self.collectives), default=0)

    @property
    def in_branches(self) -> tuple[Collective, ...]:
        """The collectives that a conditional decides about."""
        return tuple(c for c in self.collectives if c.in_branch)

    def __str__(self) -> str:
        """Equal collectives in one line, most bytes first, then the totals."""
        times: dict[Collective, int] = {}
        for c in self.collectives:
            key = c._replace(times=1)
            times[key] = times.get(key, 0) + c.times
        cells = [HEADINGS] + [
            (
                c.kind,
                f"{c.group_size}",
                f"{c.result_bytes:,}",
                f"{times[c]:,}",
                f"{times[c] * c.ring_bytes:,.0f}",
                c.where + " (in a branch)" * c.in_branch,
            )
            for c in sorted(times, key=lambda c: -times[c] * c.result_bytes)
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for kind, *numbers, where in cells if times else []:
            middle = [n.rjust(w) for n, w in zip(numbers, widths[1:-1], strict=True)]
            lines.append("  ".join([kind.ljust(widths[0]), *middle, where]).rstrip())
        return "\n".join([*lines, *self._totals()])

    def _totals(self) -> Iterable[str]:
        yield (
            f"collectives: {self.number:,}, bytes of results: {self.result_bytes:,}, "
            f"received: {self.ring_bytes:,.0f}"
        )
        yield (
            f"flops: {self.flops:,.0f}, "
            f"of factorizations: {self.factorization_flops:,.0f}"
        )
        if self.temp_bytes is not None:
            yield f"bytes of temporaries: {self.temp_bytes:,}"
        if self.unknown_trips:
            yield f"loops of unknown length, counted as one run: {self.unknown_trips}"
        if self.not_counted:
            yield f"flops not counted: {', '.join(self.not_counted)}"


def count(compiled: jax.stages.Compiled | str) -> Counted:
    """Counts collectives and floating-point operations of a compiled program.

    Bytes and operations are of one device and one run of the program, loops multiplied
    out. Numbers are those of the program the compiler made, not of the one written.

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` returned, or its `as_text()`.
    Returns: a `Counted`.
    Raises: TypeError for anything else; ValueError for text that is no optimized HLO
      or whose groups of devices cannot be read.
    Source: bytes received as in Thakur, Rabenseifner and Gropp, Optimization of
      collective communication operations in MPICH, 2005, sections 4 and 5.
    Example:
      >>> import jax, jax.numpy as jnp
      >>> power = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda i, y: x @ y, x))
      >>> counted = count(power.lower(jnp.ones((8, 8))).compile())
      >>> counted.flops == 5 * 2 * 8**3, counted.collectives
      (True, ())
    """
    temp_bytes = None
    if isinstance(compiled, jax.stages.Compiled):
        memory, text = compiled.memory_analysis(), compiled.as_text()
        temp_bytes = memory.temp_size_in_bytes if memory is not None else None
    else:
        text = compiled
    if not isinstance(text, str):
        raise TypeError(
            message(
                "count",
                f"got {type(compiled).__name__}",
                "a compiled program with a text, or the text",
                "Pass jax.jit(f).lower(...).compile()",
            )
        )
    module = parse(text)
    found = _Walk(module).computation(module.entry)
    return dataclasses.replace(found, temp_bytes=temp_bytes)


class _Walk:
    """The costs of the computations of a module, each worked out once."""

    def __init__(self, module: Module):
        self.module = module
        self.done: dict[str, Counted] = {}

    def computation(self, name: str) -> Counted:
        """One run of a computation."""
        if name not in self.done:
            inside = self.module.computations[name]
            operations = inside.operations.values()
            self.done[name] = _sum(self.operation(o, inside) for o in operations)
        return self.done[name]

    def operation(self, operation: Operation, inside: Computation) -> Counted:
        """One run of an operation and of what it calls."""
        called = operation.called(*CALLS)
        callee = self.module.computations[called[0]] if called else None
        if operation.opcode.endswith(("-done", "-update")):
            return Counted()  # counted where it started
        if operation.opcode == "while":
            return self._loop(operation, inside)
        if operation.opcode == "conditional":
            return _dearest([self.computation(b) for b in operation.called(*BRANCHES)])
        moved = collective(operation, inside, callee, self.module.devices)
        if moved is not None:
            return Counted(tuple(moved))
        flops = factorization(operation, inside)
        name = operation.target or operation.opcode
        own = Counted(
            flops=products(operation, inside) + (flops or 0),
            factorization_flops=flops or 0,
            not_counted=(name,) if flops is None else (),
        )
        return _sum([own, *map(self.computation, called)])

    def _loop(self, operation: Operation, inside: Computation) -> Counted:
        """All runs of a loop; one run, and a note, where their number is unknown."""
        trips = trip_count(operation, inside, self.module)
        (body,), (test,) = operation.called("body"), operation.called("condition")
        times = (1, 1) if trips is None else (trips, trips + 1)
        total = _sum(
            _repeated(self.computation(name), n)
            for name, n in zip((body, test), times, strict=True)
        )
        if trips is not None or total == Counted():
            return total
        return dataclasses.replace(total, unknown_trips=total.unknown_trips + 1)


def _sum(parts: Iterable[Counted]) -> Counted:
    """One after the other."""
    parts = list(parts)
    return Counted(
        collectives=tuple(c for part in parts for c in part.collectives),
        flops=sum(part.flops for part in parts),
        factorization_flops=sum(part.factorization_flops for part in parts),
        unknown_trips=sum(part.unknown_trips for part in parts),
        not_counted=tuple(sorted({n for part in parts for n in part.not_counted})),
    )


def _repeated(part: Counted, times: int) -> Counted:
    """The same, several times."""
    return dataclasses.replace(
        part,
        collectives=tuple(c._replace(times=c.times * times) for c in part.collectives),
        flops=part.flops * times,
        factorization_flops=part.factorization_flops * times,
    )


def _dearest(branches: list[Counted]) -> Counted:
    """A conditional: most bytes and most operations, be it of two branches."""
    bytes_ = max(branches, key=lambda branch: branch.result_bytes)
    flops = max(branches, key=lambda branch: branch.flops)
    return dataclasses.replace(
        _sum(branches),  # what could not be counted, of every branch
        collectives=tuple(c._replace(in_branch=True) for c in bytes_.collectives),
        flops=flops.flops,
        factorization_flops=flops.factorization_flops,
    )
