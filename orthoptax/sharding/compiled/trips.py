# SPDX-License-Identifier: Apache-2.0
"""How often a loop of a compiled program runs, where its text says so."""

import re
from typing import NamedTuple

from orthoptax.sharding.compiled.hlo import Computation, Module, Operation

KNOWN = re.compile(r"known_trip_count\W+n\W+(\d+)")  # CPU and GPU; TPU writes none
SAME = {"bitcast", "convert", "copy", "copy-done", "reshape"}  # of a scalar
SWAPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE"}


def trip_count(loop: Operation, around: Computation, module: Module) -> int | None:
    """Number of runs of the body of a `while`; None where the text does not say.

    Read from the compiler's own note, else from a counter: the condition compares an
    entry of the carried tuple with a constant, the body adds a constant to that entry,
    and it starts at a constant.

    Args:
      loop: the `while`.
      around: the computation it stands in.
      module: of both.
    Returns: the number, or None.
    """
    known = KNOWN.search(loop.attributes)
    if known:
        return int(known[1])
    (condition,), (body,) = loop.called("condition"), loop.called("body")
    test, body = module.computations[condition], module.computations[body]
    start = _source(around, loop.operands[0])
    compare = re.search(r"direction=(\w+)", test.root.attributes)
    if start.opcode != "tuple" or body.root.opcode != "tuple" or compare is None:
        return None
    carried = _Carried(around, start, body)
    left, right = (_Value.of(test, name) for name in test.root.operands)
    direction = compare[1]
    if carried.constant(left) is not None:
        left, right, direction = right, left, SWAPPED.get(direction, direction)
    first, step = carried.counter(left)
    last = carried.constant(right)
    if first is None or step is None or last is None:
        return None
    return _runs(first, last, step, direction)


class _Value(NamedTuple):
    """Where a scalar comes from, and its value or place in the carried tuple."""

    source: Operation
    constant: int | None
    entry: int | None

    @classmethod
    def of(cls, computation: Computation, name: str) -> "_Value":
        """What a name stands for."""
        source = _source(computation, name)
        if source.opcode == "constant":
            number = re.fullmatch(r"-?\d+", source.argument)
            return cls(source, int(number[0]) if number else None, None)
        if source.opcode == "get-tuple-element":
            index = re.search(r"\bindex=(\d+)", source.attributes)
            of = computation.operations[source.operands[0]]
            if index and of.opcode == "parameter":
                return cls(source, None, int(index[1]))
        return cls(source, None, None)


class _Carried(NamedTuple):
    """What becomes of the entries of the tuple that a loop carries."""

    around: Computation
    start: Operation
    body: Computation

    def first(self, entry: int) -> int | None:
        """An entry before the first run."""
        return _Value.of(self.around, self.start.operands[entry]).constant

    def constant(self, value: _Value) -> int | None:
        """A constant, or an entry that starts as one and that no run changes."""
        if value.entry is None:
            return value.constant
        after = _Value.of(self.body, self.body.root.operands[value.entry])
        return self.first(value.entry) if after.entry == value.entry else None

    def counter(self, value: _Value) -> tuple[int | None, int | None]:
        """(first value, change in a run) of an entry."""
        if value.entry is None:
            return None, None
        change = _source(self.body, self.body.root.operands[value.entry])
        if change.opcode != "add":
            return None, None
        terms = [_Value.of(self.body, name) for name in change.operands]
        steps = [self.constant(t) for t in terms if t.entry != value.entry]
        return self.first(value.entry), steps[0] if len(steps) == 1 else None


def _source(computation: Computation, name: str) -> Operation:
    """The operation that made a value, past copies of it."""
    found = computation.operations[name]
    while found.opcode in SAME:
        found = computation.operations[found.operands[0]]
    return found


def _runs(first: int, last: int, step: int, direction: str) -> int | None:
    """Length of first, first + step, ... while `value direction last` holds."""
    if step > 0 and direction in ("LT", "LE"):
        return len(range(first, last + (direction == "LE"), step))
    if step < 0 and direction in ("GT", "GE"):
        return len(range(first, last - (direction == "GE"), step))
    if direction == "NE" and step and (last - first) % step == 0:
        runs = (last - first) // step
        return runs if runs >= 0 else None
    return None
