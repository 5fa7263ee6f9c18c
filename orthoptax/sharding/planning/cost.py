# SPDX-License-Identifier: Apache-2.0
"""What the exchanges of an update cost one device: formulas on shapes."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from orthoptax.sharding.compiled.collectives import Collective
from orthoptax.sharding.exchange import Exchange
from orthoptax.sharding.planning.hardware import Hardware
from orthoptax.sharding.planning.traced import Flops, times
from orthoptax.sharding.units import Kind

KERNEL = 3  # arrays as large as the matrix that a kernel holds at a time, and squares
WORD = 4  # bytes of a number in a kernel


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an update costs the busiest device.

    Args:
      collectives: every collective, as `count` finds it in the compiled program.
      flops: of products and factorizations, by the dtype they are computed in.
      mean_flops: the same, the mean over devices.
      temporaries: bytes, an estimate: buffers of the largest exchange, and the working
        set of a kernel on the largest matrix.
      padding: bytes of the collectives' results that hold no number, mean over devices.
      work_bytes: of the matrices that the busiest device works on.
      mean_work_bytes: the same, the mean over devices.
      floor: result bytes of the same exchanges if matrices could be cut at will: one
        shard there and one back; of replicated matrices, the updates gathered.
      notes: what a reader should know, a line each.
    """

    collectives: tuple[Collective, ...] = ()
    flops: Flops = dataclasses.field(default_factory=Flops)
    mean_flops: float = 0
    temporaries: float = 0
    padding: float = 0
    work_bytes: float = 0
    mean_work_bytes: float = 0
    floor: float = 0
    notes: tuple[str, ...] = ()

    @property
    def result_bytes(self) -> int:
        """Bytes of the results of all collectives."""
        return sum(c.result_bytes for c in self.collectives)

    @property
    def ring_bytes(self) -> float:
        """Bytes that a device receives, by ring algorithms."""
        return sum(c.ring_bytes for c in self.collectives)

    @property
    def total_flops(self) -> float:
        """Operations in any dtype."""
        return self.flops.total()

    @property
    def imbalance(self) -> tuple[float, float]:
        """The busiest device's work, and the bytes it works on, each over the mean."""
        pairs = (
            (self.total_flops, self.mean_flops),
            (self.work_bytes, self.mean_work_bytes),
        )
        work, size = (most / mean if mean else 1.0 for most, mean in pairs)
        return work, size

    def seconds(self, chip: Hardware) -> float:
        """Time if work and traffic ran one after the other, each at its peak."""
        work = sum(n / chip.flops(dtype) for dtype, n in self.flops.items() if n)
        return work + self.ring_bytes / chip.link_bandwidth


def total(parts: Iterable[Cost]) -> Cost:
    """One after the other; temporaries are those of the largest."""
    parts = list(parts)
    add = lambda field: sum(getattr(part, field) for part in parts)
    return Cost(
        tuple(c for part in parts for c in part.collectives),
        sum((part.flops for part in parts), Flops()),
        add("mean_flops"),
        max((part.temporaries for part in parts), default=0),
        add("padding"),
        add("work_bytes"),
        add("mean_work_bytes"),
        add("floor"),
        tuple(note for part in parts for note in part.notes),
    )


def exchange_cost(
    exchange: Exchange,
    flops: Callable[[Kind], Flops],
    joint: tuple[Flops, tuple[Collective, ...]] | None = None,
) -> Cost:
    """What one exchange costs.

    Args:
      exchange: who works on what.
      flops: flops(kind): operations of the links on one unit.
      joint: operations and collectives of what a team does together; None: none.
    """
    each = [flops(kind) for kind in exchange.kinds]
    size = lambda kind: unit_bytes(exchange, kind, outputs=False, whole=True)
    sizes = [size(kind) for kind in exchange.kinds]
    loads = [
        sum((times(each[k], len(ids)) for k, ids in share.items()), Flops())
        for share in exchange.shares
    ]
    held = [
        sum(sizes[k] * len(ids) for k, ids in share.items())
        for share in exchange.shares
    ]
    work, moves = (Flops(), ()) if joint is None else joint
    joint_bytes = sum(n * size(part.kind) for _, part, n in exchange.together)
    return Cost(
        (*collectives(exchange), *moves),
        max(loads, key=lambda load: load.total()) + work,
        sum(load.total() for load in loads) / len(loads)
        + work.total() * _busy(exchange, lambda kind: kind.flops),
        temporaries(exchange),
        padding(exchange),
        max(held) + joint_bytes,
        sum(held) / len(held) + joint_bytes * _busy(exchange, size),
        floor(exchange),
    )


def _busy(exchange: Exchange, size: Callable[[Kind], float]) -> float:
    """Of what all teams would do if each had as much as any, how much they do."""
    teams, real, most = len(exchange.joint), 0.0, 0.0
    for k, part, number in exchange.together:
        units = sum(len(share.get(k, ())) for share in exchange.joint)
        real += units * size(part.kind)
        most += teams * number * size(part.kind)
    return real / most if most else 0.0


def collectives(exchange: Exchange) -> tuple[Collective, ...]:
    """The collectives of an exchange, in their order."""
    if exchange.silent:
        return ()
    there, back = (_chunk_bytes(exchange, outputs) for outputs in (False, True))
    spread, teams = exchange.spread, exchange.teams
    moves: list[tuple[str, int, int]] = []
    if exchange.gather:
        moves = [("all-gather", spread * there, spread)]
    elif exchange.cut:
        moves = [("all-to-all", spread * size, spread) for size in (there, back)]
    if exchange.split:
        results = back if exchange.gather else spread * back
        moves.append(("all-gather", teams * results, teams))
    return tuple(Collective(*move, 1, False, "") for move in moves)


def padding(exchange: Exchange) -> float:
    """Bytes of the results that hold nothing, the mean over devices."""
    if exchange.silent:
        return 0
    inputs, outputs = (_content_bytes(exchange, outputs) for outputs in (False, True))
    content = 0.0
    if exchange.gather:
        content += exchange.spread * inputs / exchange.teams
    elif exchange.cut:
        content += (inputs + outputs) / exchange.teams
    if exchange.split:
        content += outputs
    return sum(c.result_bytes for c in collectives(exchange)) - content


def floor(exchange: Exchange) -> float:
    """Result bytes if the updates alone travelled, in pieces of any size."""
    shard = sum(
        leaf.units
        * exchange.count(leaf.kind, leaf.kind.inputs[0])
        * exchange.wire.dtype(leaf.kind.inputs[0]).itemsize
        for leaf in exchange.leaves
    )
    two = 2 * shard / exchange.teams if exchange.cut else 0
    return two + (shard if exchange.split else 0)


def temporaries(exchange: Exchange) -> float:
    """Bytes beside arguments and results, an estimate.

    At the work: what came, what is to go back, and a kernel on the largest matrix. At
    the end: what came back, and what is sent.
    """
    alone = {k for share in exchange.shares for k, ids in share.items() if ids}
    sizes = [_largest(exchange.kinds[k]) for k in alone]
    sizes += [n * _largest(part.kind) for _, part, n in exchange.together]
    kernel = max(sizes)
    if exchange.silent:
        return kernel
    sizes = [c.result_bytes for c in collectives(exchange)]
    there, back = (_chunk_bytes(exchange, outputs) for outputs in (False, True))
    there, back = exchange.spread * there, exchange.spread * back
    return max(there + back + kernel, back + sizes[-1])


def unit_bytes(exchange: Exchange, kind: Kind, *, outputs: bool, whole: bool) -> int:
    """Bytes of what travels with a unit: of whole arrays, or one device's part."""
    wire = exchange.wire
    if whole:
        fields = kind.outputs if outputs else kind.inputs
        count = lambda field: kind.grain * math.prod(field.shape)
    elif outputs:
        fields, count = kind.outputs, lambda field: exchange.count(kind, field)
    else:
        fields, count = kind.inputs, lambda field: exchange.share(kind, field)
    return sum(count(field) * wire.dtype(field).itemsize for field in fields)


def _chunk_bytes(exchange: Exchange, outputs: bool) -> int:
    """Bytes between one owner and one device, padding included."""
    return (
        exchange.chunk_rows(outputs) * exchange.wire.lane * exchange.wire.word.itemsize
    )


def _content_bytes(exchange: Exchange, outputs: bool) -> int:
    """Bytes of one device's part of every unit."""
    size = lambda kind: unit_bytes(exchange, kind, outputs=outputs, whole=False)
    each = [size(kind) for kind in exchange.kinds]
    total = sum(
        each[k] * len(ids) for share in exchange.shares for k, ids in share.items()
    )
    for k, part, _ in exchange.together:
        units = sum(len(share.get(k, ())) for share in exchange.joint)
        total += units * exchange.team * size(part.kind)
    return total


def _largest(kind: Kind) -> float:
    """The working set of a kernel on one matrix of a kind."""
    return max(map(kernel_bytes, kind.leaf.view.shapes((1, *kind.inputs[0].shape))))


def kernel_bytes(shape: Sequence[int]) -> float:
    """The working set of a kernel on one (..., rows, cols) matrix."""
    *_, rows, cols = shape
    return KERNEL * WORD * (rows * cols + min(rows, cols) ** 2)
