# SPDX-License-Identifier: Apache-2.0
"""Teams: several devices with one matrix, each an equal fraction of its long side.

Links that sum over the long side do not mind its order. So a device that sends its part
of a matrix gives each member of the team a fraction of that part, whichever axis cuts
it, and each member puts fractions together as an owner puts parts.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from orthoptax.layout.links import matrix_names
from orthoptax.matrix.part import Part
from orthoptax.sharding.assign import Job, Shares, assign
from orthoptax.sharding.units import Field, Kind, StateKey


class Fraction(NamedTuple):
    """What a member of a team has of a unit.

    kind: of the unit, its fields that run along the long side shorter. axes: {key of
    such a field: that axis}; of all others each member has a copy. rows: whether the
    long side is the rows. shapes: of the whole matrices.
    """

    kind: Kind
    axes: Mapping[Hashable, int]
    rows: bool
    shapes: tuple[tuple[int, int], ...]


def fraction(kind: Kind, team: int, sizes: Mapping[str, int]) -> Fraction | None:
    """The fraction of a unit; None where its long side cannot be cut so.

    Args:
      kind: of the unit.
      team: members.
      sizes: of every mesh axis.
    """
    view = kind.leaf.view
    whole = (1, *kind.inputs[0].shape)
    shapes = [shape[-2:] for shape in view.shapes(whole)]
    _, rows, cols = view.axes(whole)
    tries: list[tuple[bool, tuple[int, ...]]] = []
    if all(height <= width for height, width in shapes):
        tries.append((False, cols))
    if not view.blocks and shapes[0][0] >= shapes[0][1]:
        tries.append((True, rows))
    for by_rows, side in tries:
        for axis in side:
            found = _fraction(
                kind, team, sizes, by_rows, [a - 1 for a in side], axis - 1
            )
            if found is not None:
                return found
    return None


def _fraction(
    kind: Kind,
    team: int,
    sizes: Mapping[str, int],
    by_rows: bool,
    side: Sequence[int],
    axis: int,
) -> Fraction | None:
    """The fraction along one of the axes that make up the long side, if that fits."""
    main = kind.inputs[0]
    if main.here(sizes)[axis] % team:
        return None
    whole = kind.leaf.view.shapes((1, *main.shape))
    shapes = tuple((shape[-2], shape[-1]) for shape in whole)
    axes: dict[Hashable, int] = {}
    for field in (*kind.inputs, *kind.outputs):
        if not isinstance(field.key, StateKey):
            axes[field.key] = axis
            continue
        along = _along(field, shapes[field.key.block], by_rows)
        if along is None:
            continue
        pieces = any(main.cuts[a] for a in side[1:])
        if axis != side[0] or pieces or field.cuts[along] != main.cuts[axis]:
            return None  # its numbers would not go where their rows or columns go
        axes[field.key] = along

    def less(field: Field) -> Field:
        if field.key not in axes:
            return field
        shape = list(field.shape)
        shape[axes[field.key]] //= team
        return dataclasses.replace(field, shape=tuple(shape))

    inputs, outputs = (tuple(map(less, f)) for f in (kind.inputs, kind.outputs))
    smaller = dataclasses.replace(
        kind, inputs=inputs, outputs=outputs, flops=kind.flops / team
    )
    return Fraction(smaller, axes, by_rows, shapes)


def _along(field: Field, matrix: Sequence[int], by_rows: bool) -> int | None:
    """The axis of a state that runs along the long side; as `state_cuts` sees it."""
    axis = len(field.shape) - (2 if by_rows and len(field.shape) > 1 else 1)
    if axis < 0 or (not by_rows and len(field.shape) == 1):
        return None
    return axis if field.shape[axis] == matrix[0 if by_rows else 1] else None


def parts(
    fractions: Sequence[Fraction], axes: tuple[str, ...], devices: int, team: int
) -> dict[str, Part]:
    """{matrix name: how it lies}, as links are told.

    Args:
      fractions: of all kinds.
      axes: along which the members of all teams are counted.
      devices: along these axes.
      team: members, next to each other.
    """
    teams = tuple(tuple(range(i, i + team)) for i in range(0, devices, team))
    found = {}
    for kind, _, by_rows, shapes in fractions:
        rows, cols = (axes, ()) if by_rows else ((), axes)
        part = Part((0, 0), rows, cols, scatter=False, groups=teams)
        names = matrix_names(kind.name, kind.leaf.view)
        for name, shape in zip(names, shapes, strict=True):
            found[name] = dataclasses.replace(part, shape=shape)
    return found


class Deal(NamedTuple):
    """Who works on what. shares: of each owner, alone. joint: of each team."""

    shares: Shares
    joint: Shares


def deal(jobs: Sequence[Job], owners: int, team: int, able: Sequence[bool]) -> Deal:
    """Shares out whole units as far as they go evenly, and the rest over teams.

    What is left when every team has as many goes to some of the teams, for which the
    others wait; or whole to some owners, if the busiest then has less.

    Args:
      jobs: equal units together.
      owners: how many; of `team` in a row each.
      team: members of a team.
      able: of each job, whether teams can work on it.
    """
    deals = [_deal(jobs, owners, team, able, wait) for wait in (True, False)]
    return min(deals, key=lambda d: _busiest(jobs, d, team))


def _deal(
    jobs: Sequence[Job], owners: int, team: int, able: Sequence[bool], wait: bool
) -> Deal:
    teams = owners // team
    alone = []
    joint: Shares = [{} for _ in range(teams)]
    for job in jobs:
        rest = job.count % owners if able[job.kind] else 0
        rest -= 0 if wait else rest % teams
        alone.append(job._replace(count=job.count - rest))
        for i in range(rest):
            joint[i % teams].setdefault(job.kind, []).append(job.count - rest + i)
    return Deal(assign(alone, owners), joint)


def _busiest(jobs: Sequence[Job], dealt: Deal, team: int) -> tuple[float, float]:
    """The most bytes and FLOPs of an owner, alone and in its team."""
    most = []
    for field in ("bytes", "flops"):
        each = {job.kind: getattr(job, field) for job in jobs}
        load = lambda share, e=each: sum(e[k] * len(ids) for k, ids in share.items())
        waits = {k: [0] * n for k, n in joint_units(dealt.joint).items()}
        most.append(max(map(load, dealt.shares)) + load(waits) / team)
    return most[0], most[1]


def joint_units(joint: Shares) -> dict[int, int]:
    """How many units of each kind a team has at most."""
    kinds = sorted({k for share in joint for k in share})
    return {k: max(len(share.get(k, ())) for share in joint) for k in kinds}


def cut_units(
    x: jax.Array, field: Field, axis: int | None, grain: int, team: int, sizes: Mapping
) -> jax.Array:
    """(units, numbers of one device's part) to (team, units, numbers of a fraction).

    Args:
      x: of a field.
      field: of the whole unit.
      axis: that runs along the long side; None: everyone gets a copy.
      grain: batch elements of a unit.
      team: members.
      sizes: of every mesh axis.
    """
    if axis is None:
        return jnp.broadcast_to(x, (team, *x.shape))
    here = field.here(sizes)
    long = (team, here[axis] // team)
    x = x.reshape(len(x), grain, *here[:axis], *long, *here[axis + 1 :])
    return jnp.moveaxis(x, 2 + axis, 0).reshape(team, len(x), -1)


def join_units(
    x: jax.Array, field: Field, axis: int | None, grain: int, team: int, sizes: Mapping
) -> jax.Array:
    """The inverse of `cut_units`; of copies the first member's."""
    if axis is None:
        return x[0]
    here = field.here(sizes)
    short = (*here[:axis], here[axis] // team, *here[axis + 1 :])
    units = x.shape[1]
    x = jnp.moveaxis(x.reshape(team, units, grain, *short), 0, 2 + axis)
    return x.reshape(units, grain * math.prod(here))
