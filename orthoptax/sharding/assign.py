# SPDX-License-Identifier: Apache-2.0
"""Who works on which matrix: the longest job first, each to the least busy."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple


class Job(NamedTuple):
    """So many equal pieces of work. kind: an index. flops, bytes: of one piece."""

    kind: int
    count: int
    flops: float
    bytes: float


Shares = list[dict[int, list[int]]]
"""For each owner {kind: the pieces it works on}."""


def assign(jobs: Sequence[Job], owners: int) -> Shares:
    """Shares out pieces of work over owners, so that work and bytes are even.

    Two orders are tried, by work and by bytes, and the one kept whose busiest owner,
    both counted relative to the mean, has least.

    Args:
      jobs: equal pieces together; kinds all different.
      owners: how many.
    Returns: for each owner {kind: indices of pieces}, each index once in all.
    Example:
      >>> assign([Job(0, 3, 4.0, 1.0), Job(1, 2, 2.0, 1.0)], 2)
      [{0: [0, 2]}, {0: [1], 1: [0, 1]}]
    """
    tries = [_longest_first(jobs, owners, by) for by in ("flops", "bytes")]
    return min(tries, key=lambda shares: sum(excess(jobs, shares)))


def excess(jobs: Sequence[Job], shares: Shares) -> tuple[float, float]:
    """The busiest owner's work and bytes, each over the mean."""
    ratios = []
    for field in ("flops", "bytes"):
        each = {job.kind: getattr(job, field) for job in jobs}
        loads = [sum(each[k] * len(ids) for k, ids in s.items()) for s in shares]
        mean = sum(loads) / len(loads)
        ratios.append(max(loads) / mean if mean else 1.0)
    return ratios[0], ratios[1]


def _longest_first(jobs: Sequence[Job], owners: int, by: str) -> Shares:
    """Each piece, dearest first, to the owner with least so far."""
    other = "bytes" if by == "flops" else "flops"
    shares: Shares = [{} for _ in range(owners)]
    busy = [(0.0, 0.0, owner) for owner in range(owners)]
    order = sorted(jobs, key=lambda j: (-getattr(j, by), -getattr(j, other), j.kind))
    for job in order:
        for piece in range(job.count):
            first, second, owner = heapq.heappop(busy)
            shares[owner].setdefault(job.kind, []).append(piece)
            first, second = first + getattr(job, by), second + getattr(job, other)
            heapq.heappush(busy, (first, second, owner))
    return shares
