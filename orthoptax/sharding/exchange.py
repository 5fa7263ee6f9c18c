# SPDX-License-Identifier: Apache-2.0
"""One exchange, planned: which device works on which matrices, and what it moves."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from orthoptax._check import message
from orthoptax.matrix.part import Part
from orthoptax.sharding.assign import Job, Shares, assign
from orthoptax.sharding.cuts import parts_of
from orthoptax.sharding.teams import Fraction, deal, fraction, joint_units, parts
from orthoptax.sharding.units import Field, Kind, LeafUnits

LANE = 128  # rows of a multiple of this are moved without rearranging on TPU
Signature = tuple[int, ...]
"""How many units of each kind."""


@dataclasses.dataclass(frozen=True)
class Wire:
    """The form in which numbers travel: rows of `lane` words of one dtype."""

    word: Any
    lane: int
    transport: Any  # what updates are rounded to, or None

    def dtype(self, field: Field) -> Any:
        """What the numbers of a field are rounded to while they travel."""
        floating = jnp.issubdtype(field.dtype, jnp.inexact)
        exact = self.transport is None or not isinstance(field.key, str)
        return field.dtype if exact or not floating else jnp.dtype(self.transport)

    def rows(self, field: Field, count: int) -> int:
        """Rows that so many numbers of a field fill."""
        words = count * max(1, self.dtype(field).itemsize // self.word.itemsize)
        return math.ceil(words / self.lane)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The leaves that are cut over the same mesh axes, and who works on which unit.

    leaves: with their units. kinds: of all units. sizes: of every mesh axis. cut: the
    axes that one matrix is spread over. split: axes over which every matrix is whole
    and the work is shared out. gather: everyone assembles everything, as there is too
    little to share. shares: for each owner {kind: pieces}; pieces of a kind are counted
    leaf after leaf. An owner's number counts `split`, then `cut` (unless `gather`).
    team: owners in a row that work together on the units of `joint`, which says of each
    team what `shares` says of each owner. fractions: what a member has of a unit of
    each kind.
    """

    leaves: tuple[LeafUnits, ...]
    kinds: tuple[Kind, ...]
    sizes: Mapping[str, int]
    cut: tuple[str, ...]
    split: tuple[str, ...]
    gather: bool
    shares: Shares
    transport: Any = None
    team: int = 1
    joint: Shares = dataclasses.field(default_factory=list)
    fractions: tuple[Fraction | None, ...] = ()

    @property
    def spread(self) -> int:
        """Devices that one matrix is spread over."""
        return parts_of(self.cut, self.sizes)

    @property
    def teams(self) -> int:
        """Groups of devices that share the work."""
        return parts_of(self.split, self.sizes)

    @property
    def silent(self) -> bool:
        """Whether nothing has to travel."""
        return self.spread == 1 and self.teams == 1

    @functools.cached_property
    def common(self) -> Signature:
        """Units of each kind that every owner has."""
        return tuple(min(self._counts(k)) for k in range(len(self.kinds)))

    @functools.cached_property
    def branches(self) -> list[Signature]:
        """The different remainders."""
        return sorted(set(self._rests()))

    @functools.cached_property
    def table(self) -> list[int]:
        """For each owner the index of its remainder in `branches`."""
        return [self.branches.index(rest) for rest in self._rests()]

    @functools.cached_property
    def together(self) -> list[tuple[int, Fraction, int]]:
        """(kind, its fraction, how many of its units a team has at most)."""
        return [(k, self.fraction(k), n) for k, n in joint_units(self.joint).items()]

    @property
    def parts(self) -> dict[str, Part]:
        """How the matrices of `together` lie, for the links."""
        fractions = [x for _, x, _ in self.together]
        return parts(fractions, self.split + self.cut, len(self.shares), self.team)

    @functools.cached_property
    def wire(self) -> Wire:
        """The form in which numbers travel."""
        fields = [f for k in self.kinds for f in (*k.inputs, *k.outputs)]
        plain = Wire(jnp.dtype(jnp.uint8), 1, self.transport)
        word = _word({plain.dtype(f) for f in fields})
        kinds = [*self.kinds, *(part.kind for _, part, _ in self.together)]
        each = [(k.grain, k.inputs[0].here(self.sizes)) for k in kinds]
        wide = math.gcd(*(part[-1] for _, part in each))
        numbers = math.gcd(*(grain * math.prod(part) for grain, part in each))
        lanes = [d for d in range(8 * LANE, 0, -1) if numbers % d == 0]
        lanes = [wide, *lanes] if wide >= LANE else lanes
        filled = {n: self._filled(Wire(word, n, self.transport)) for n in lanes}
        enough = 1.005 * min(filled.values())  # small states fill rows badly
        return Wire(word, next(n for n in lanes if filled[n] <= enough), self.transport)

    def _filled(self, wire: Wire) -> int:
        """Words that travel in rows of this length, padding included."""
        numbers = [(kind, sum(self._counts(k))) for k, kind in enumerate(self.kinds)]
        owners = len(self.shares)
        numbers += [(part.kind, owners * n) for _, part, n in self.together]
        total = 0
        for kind, number in numbers:
            there = [wire.rows(f, self.share(kind, f)) for f in kind.inputs]
            back = [wire.rows(f, self.count(kind, f)) for f in kind.outputs]
            total += number * (sum(there) + sum(back)) * wire.lane
        return total

    def copies(self, kind: Kind, field: Field) -> tuple[str, ...]:
        """The axes of `cut` over which a field is whole."""
        used = {name for cut in field.cuts for name in cut}
        return tuple(name for name in kind.cut if name not in used)

    def count(self, kind: Kind, field: Field) -> int:
        """Numbers in one device's part of a unit."""
        return kind.grain * math.prod(field.here(self.sizes))

    def share(self, kind: Kind, field: Field) -> int:
        """Numbers one device sends: of a field it shares with others its part."""
        copies = parts_of(self.copies(kind, field), self.sizes)
        return math.ceil(self.count(kind, field) / copies)

    def rows(self, kind: Kind, outputs: bool) -> list[int]:
        """Rows of each field of a unit, one device's part."""
        if outputs:
            return [self.wire.rows(f, self.count(kind, f)) for f in kind.outputs]
        return [self.wire.rows(f, self.share(kind, f)) for f in kind.inputs]

    def unit_rows(self, signature: Signature, outputs: bool) -> int:
        """Rows of all units of a signature."""
        each = [sum(self.rows(k, outputs)) for k in self.kinds]
        return sum(n * rows for n, rows in zip(signature, each, strict=True))

    def joint_rows(self, outputs: bool) -> int:
        """Rows of the fractions of all units that a team has."""
        return sum(n * sum(self.rows(x.kind, outputs)) for _, x, n in self.together)

    def chunk_rows(self, outputs: bool) -> int:
        """Rows between one owner and one device; the same for all."""
        rest = max(self.unit_rows(rest, outputs) for rest in self.branches)
        even = self.unit_rows(self.common, outputs) + self.joint_rows(outputs)
        return even + rest

    def fraction(self, kind: int) -> Fraction:
        """What a member of a team has of a unit of this kind."""
        found = self.fractions[kind]
        if found is None:
            raise LookupError(kind)  # such a kind has no joint units
        return found

    def _counts(self, kind: int) -> list[int]:
        return [len(share.get(kind, ())) for share in self.shares]

    def _rests(self) -> list[Signature]:
        return [
            tuple(len(share.get(k, ())) - base for k, base in enumerate(self.common))
            for share in self.shares
        ]


def plan_exchange(
    leaves: Sequence[LeafUnits],
    sizes: Mapping[str, int],
    cut: tuple[str, ...],
    split: tuple[str, ...],
    transport: Any,
    team: int = 1,
) -> Exchange:
    """Assigns the units of leaves that are cut over the same axes.

    A lone matrix is assembled everywhere, as sending it to one owner and back costs
    twice what an all-gather does and saves no work; so is a group in which one owner
    would have more than half of everything. Work on replicated matrices is shared out
    where all-gathering the results moves less than twice what they hold. With teams
    there is always enough to share.
    """
    kinds: dict[Any, Kind] = {}
    counts: dict[Any, int] = {}
    for leaf in leaves:
        same = leaf.kind.same()
        kinds.setdefault(same, leaf.kind)
        counts[same] = counts.get(same, 0) + leaf.units
    jobs = []
    for i, (same, kind) in enumerate(kinds.items()):
        size = kind.grain * math.prod(kind.inputs[0].shape)
        jobs.append(Job(i, counts[same], kind.flops, float(size)))
    about = tuple(leaves), tuple(kinds.values()), sizes
    if team > 1 and cut + split:
        alone = Exchange(*about, cut, split, False, [], transport)
        return _in_teams(alone, jobs, team)
    total = sum(j.count * j.bytes for j in jobs)
    load = lambda shares: max(
        sum(jobs[k].bytes * len(ids) for k, ids in share.items()) for share in shares
    )
    spread = parts_of(cut, sizes)
    if split:
        teams = parts_of(split, sizes)
        shares = assign(jobs, teams * spread)
        if teams * spread * load(shares) > 2 * total:
            split = ()
    teams = parts_of(split, sizes)
    shares, everything = assign(jobs, teams * spread), assign(jobs, teams)
    gather = spread > 1 and 2 * load(shares) > load(everything)
    shares = everything if gather else shares
    return Exchange(*about, cut, split, gather, shares, transport)


def _in_teams(about: Exchange, jobs: Sequence[Job], team: int) -> Exchange:
    """The same with the work shared out over teams where it does not go evenly."""
    owners = about.teams * about.spread
    if owners % team:
        name, known = about.leaves[0].name, about.leaves[0].leaf
        raise ValueError(
            message(
                "whole_matrices",
                f"{name!r} of shape {known.shape} is worked on by {owners} devices, "
                f"over {list(about.split + about.cut)}, which are no teams of {team}",
                "a team that divides the number of devices",
                "Pass another team=, or axes= with other axes",
            )
        )
    fractions = tuple(fraction(kind, team, about.sizes) for kind in about.kinds)
    dealt = deal(jobs, owners, team, [x is not None for x in fractions])
    return dataclasses.replace(
        about, shares=dealt.shares, team=team, joint=dealt.joint, fractions=fractions
    )


def _word(dtypes: set[Any]) -> Any:
    """The dtype that all of these travel as, digits untouched."""
    dtypes = {jnp.finfo(d).dtype if d.kind == "c" else d for d in dtypes}
    if len(dtypes) == 1:
        (only,) = dtypes
        if only.itemsize > 2 and jnp.issubdtype(only, jnp.floating):
            return only
    # A 16-bit float is widened by CPU collectives, so it goes as an integer.
    size = min(8, *(d.itemsize for d in dtypes)) if dtypes else 4
    return jnp.dtype(f"uint{8 * size}")
