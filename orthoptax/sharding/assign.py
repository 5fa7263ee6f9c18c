# SPDX-License-Identifier: Apache-2.0
"""Who works on which matrix: the longest job first, then exchanges that even out."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_MOVES = 256
_LEAST = 1e-9  # change that is worth a move


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

    Two orders are tried, by work and by bytes; from each, the owner furthest from the
    mean gives a piece away, or exchanges one, as long as that evens out. What is kept
    is the one whose busiest owner, both counted relative to the mean, has least.

    Args:
      jobs: equal pieces together; kinds all different.
      owners: how many.
    Returns: for each owner {kind: indices of pieces}, each index once in all.
    Example:
      >>> assign([Job(0, 3, 4.0, 1.0), Job(1, 2, 2.0, 1.0)], 2)
      [{0: [0, 2]}, {0: [1], 1: [0, 1]}]
    """
    tries = [_longest_first(jobs, owners, by) for by in ("flops", "bytes")]
    tries += [_evened(jobs, shares) for shares in tries]
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


def _evened(jobs: Sequence[Job], shares: Shares) -> Shares:
    """The same pieces, moved until the furthest owner finds no better exchange.

    Better: the squared distances from the mean of the two owners, in work and in bytes,
    have a smaller sum. Ends as that falls, or after `_MOVES`.
    """
    shares = [{kind: [*ids] for kind, ids in share.items()} for share in shares]
    held = np.array([[len(s.get(j.kind, ())) for j in jobs] for s in shares], float)
    held = np.pad(held, ((0, 0), (0, 1)), constant_values=1)  # all have nothing to give
    sizes = np.array([*((job.flops, job.bytes) for job in jobs), (0, 0)], float)
    total = held.sum(0) @ sizes
    sizes = sizes * len(shares) / np.where(total == 0, 1, total)
    off = held @ sizes - 1
    for _ in range(_MOVES):
        who = int(np.argmax((off**2).sum(1)))
        gain, give, take, other = _best_exchange(off, held, sizes, who)
        if gain > -_LEAST:
            break
        step = sizes[take] - sizes[give]
        off[who], off[other] = off[who] + step, off[other] - step
        for kind, old, new in ((give, who, other), (take, other, who)):
            if kind < len(jobs):
                index = jobs[kind].kind
                shares[new].setdefault(index, []).append(shares[old][index].pop())
                held[old, kind] -= 1
                held[new, kind] += 1
    return [{k: sorted(ids) for k, ids in s.items() if ids} for s in shares]


def _best_exchange(
    off: np.ndarray, held: np.ndarray, sizes: np.ndarray, who: int
) -> tuple[float, int, int, int]:
    """(change of the sum, kind that `who` gives, kind it takes, from which owner)."""
    can = held > 0
    can[who] = False
    found = [(0.0, 0, 0, 0)]
    for give in np.flatnonzero(held[who]):
        step = sizes - sizes[give]  # to `who`, for each kind it may take
        mine = (2 * off[who] * step + step**2).sum(1)
        theirs = (step**2).sum(1) - 2 * off @ step.T
        gain = np.where(can, mine + theirs, np.inf)
        other, take = np.unravel_index(np.argmin(gain), gain.shape)
        found.append((float(gain[other, take]), int(give), int(take), int(other)))
    return min(found)
