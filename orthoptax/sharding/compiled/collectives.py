# SPDX-License-Identifier: Apache-2.0
"""The collectives of a compiled program: what each moves, among how many devices."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from orthoptax._check import message
from orthoptax.sharding.compiled.hlo import Computation, Operation

# Bytes that a device receives, of result bytes b in a group of w, if the devices of a
# group stand in a ring and no part is sent twice; of a ragged exchange, at most.
RING: dict[str, Callable[[int, int], float]] = {
    "all-gather": lambda b, w: b * (w - 1) / w,
    "all-reduce": lambda b, w: 2 * b * (w - 1) / w,
    "all-to-all": lambda b, w: b * (w - 1) / w,
    "collective-broadcast": lambda b, w: b,
    "collective-permute": lambda b, w: b,
    "ragged-all-to-all": lambda b, w: b * (w - 1) / w,
    "reduce-scatter": lambda b, w: b * (w - 1),
}


class Collective(NamedTuple):
    """A collective of a compiled program.

    kind: as HLO calls it, without `-start`: `"all-gather"`, `"all-to-all"`, ...
    result_bytes: size of its result on one device, of one execution.
    group_size: devices that take part together; of a permutation, those it links.
    times: executions in a run of the program.
    in_branch: whether a conditional decides if it runs; devices that decide differently
      wait for each other forever.
    where: path of the Python call that made it, "" if unknown.
    """

    kind: str
    result_bytes: int
    group_size: int
    times: int
    in_branch: bool
    where: str

    @property
    def ring_bytes(self) -> float:
        """Bytes a device receives in one execution, by ring algorithms."""
        return RING[self.kind](self.result_bytes, self.group_size)


def collective(
    operation: Operation,
    inside: Computation,
    callee: Computation | None,
    devices: int,
) -> list[Collective] | None:
    """What an operation moves between devices; None if it is no collective.

    Args:
      operation: any; of one in two halves, the first.
      inside: the computation it stands in.
      callee: the computation it calls, if it calls one.
      devices: number of devices the program runs on.
    Returns: a list of one `Collective`; an empty one for a part of a collective that
      is counted elsewhere; or None.
    """
    kind = operation.opcode
    source = operation
    if kind == "fusion" and callee and callee.root.opcode == "dynamic-slice":
        cut = callee.operations[callee.root.operands[0]]
        if cut.opcode == "all-reduce":  # how the compiler for TPU writes it
            kind, source = "reduce-scatter", cut
    if kind not in RING:
        return None
    if "chain_id=" in operation.attributes and not any(
        o.target == "AsyncCollectiveStart" for o in inside.operations.values()
    ):
        return []  # on TPU the fusions between start and end name the collective too
    size = sum(shape.bytes for shape in operation.shapes)
    group = _group_size(source, devices)
    return [Collective(kind, size, group, 1, False, source.where)]


def _group_size(operation: Operation, devices: int) -> int:
    """Devices that take part together, from any of the forms the text knows."""
    text = operation.attributes
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{}\s]*\})\}", text)
    if pairs:
        return _linked(re.findall(r"(\d+),\s*(\d+)", pairs[1]))
    lists = re.search(r"replica_groups=\{((?:\{[\d,\s]*\},?\s*)*)\}", text)
    if lists:  # {{0,1},{2,3}}; {} is all devices
        groups = re.findall(r"\{([^}]*)\}", lists[1])
        return max((group.count(",") + 1 for group in groups), default=devices)
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", text)
    if iota:  # [groups, devices of each]<=[...]T(...)
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{([^}]*)\}", text)
    if mesh:  # mesh['a'=2,'b'=4] {'b'}; {'b':(1)2} is a part of an axis
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    raise ValueError(
        message(
            "count",
            f"the devices of {operation.opcode} {operation.name!r} cannot be read",
            "replica_groups or source_target_pairs in a form known here",
            "Pass the text of as_text() as it is, and report its line",
        )
    )


def _linked(pairs: list[tuple[str, str]]) -> int:
    """Size of the largest set of devices that pairs link."""
    groups: list[set[str]] = []
    for pair in pairs:
        touched = [group for group in groups if group.intersection(pair)]
        groups = [group for group in groups if group not in touched]
        groups.append(set(pair).union(*touched))
    return max(map(len, groups), default=1)
