# SPDX-License-Identifier: Apache-2.0
"""What each owner works on, piece by piece, in the order of the buffers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from orthoptax.sharding.exchange import Exchange
from orthoptax.sharding.packing import (
    Arrays,
    pack_fractions,
    pack_leaf,
    unpack_fractions,
    unpack_leaf,
    unpack_units,
)


class Piece(NamedTuple):
    """A unit of a leaf, whole or the fraction of a member; no name: a gap."""

    kind: int
    name: str
    unit: int
    member: int | None = None


def pieces(exchange: Exchange) -> list[list[Piece]]:
    """For each owner what it works on, in order."""
    order: dict[int, list[Piece]] = {}
    same = [k.same() for k in exchange.kinds]
    for leaf in exchange.leaves:
        kind = same.index(leaf.kind.same())
        units = [Piece(kind, leaf.name, u) for u in range(leaf.units)]
        order.setdefault(kind, []).extend(units)
    result = []
    for owner, share in enumerate(exchange.shares):
        first, rest = [], []
        for k, common in enumerate(exchange.common):
            ids = [order[k][i] for i in share.get(k, ())]
            first += ids[:common]
            rest += ids[common:]
        team, member = divmod(owner, exchange.team)
        for k, _, number in exchange.together:
            ids = exchange.joint[team].get(k, [])
            first += [order[k][i]._replace(member=member) for i in ids]
            first += [Piece(k, "", 0, member)] * (number - len(ids))
        result.append(first + rest)
    return result


def joint_from(owners: Sequence[Sequence[Piece]]) -> dict[str, tuple[int, int]]:
    """{leaf name: (its kind, the first of its units that teams work on)}."""
    found: dict[str, tuple[int, int]] = {}
    for piece in (piece for units in owners for piece in units):
        if piece.name and piece.member is not None:
            kind, unit = found.get(piece.name, (piece.kind, piece.unit))
            found[piece.name] = kind, min(unit, piece.unit)
    return found


def packed(
    exchange: Exchange, owners: Sequence[Sequence[Piece]], arrays: Mapping[str, Arrays]
) -> dict[Piece, jax.Array]:
    """One device's part of every piece: (rows, lane)."""
    first = joint_from(owners)
    whole, cut = {}, {}
    for name, _, kind, units in exchange.leaves:
        index, start = first.get(name, (0, units))
        if start:
            whole[name] = pack_leaf(exchange, kind, arrays[name])
        if start < units:
            part = exchange.fraction(index)
            cut[name] = pack_fractions(exchange, kind, part, arrays[name], start)
    gap = lambda kind: jnp.zeros(
        (sum(exchange.rows(kind, False)), exchange.wire.lane), exchange.wire.word
    )
    gaps = {k: gap(part.kind) for k, part, _ in exchange.together}
    found = {}
    for piece in (piece for units in owners for piece in units):
        if not piece.name:
            found[piece] = gaps[piece.kind]
        elif piece.member is None:
            found[piece] = whole[piece.name][piece.unit]
        else:
            unit = piece.unit - first[piece.name][1]
            found[piece] = cut[piece.name][piece.member][unit]
    return found


def unpacked(
    exchange: Exchange, results: jax.Array, arrays: Mapping[str, Arrays]
) -> dict[str, dict[Any, jax.Array]]:
    """This device's part of the outputs, {leaf name: {field key: array}}.

    Args:
      exchange: who worked on what.
      results: (owners, rows, lane), what each sent back.
      arrays: what was sent, for its shapes.
    """
    owners = pieces(exchange)
    joint = joint_from(owners)
    found: dict[tuple[str, int, int | None], jax.Array] = {}
    for owner, units in enumerate(owners):
        start = 0
        for piece in units:
            alone = exchange.kinds[piece.kind]
            kind = alone if piece.member is None else exchange.fraction(piece.kind).kind
            end = start + sum(exchange.rows(kind, True))
            found[piece.name, piece.unit, piece.member] = results[owner, start:end]
            start = end
    back = {}
    for leaf in exchange.leaves:
        rows = lambda units, member, name=leaf.name: jnp.stack(
            [found[name, u, member] for u in units]
        )
        kind, first = joint.get(leaf.name, (0, leaf.units))
        units = []
        if first:
            alone = rows(range(first), None)
            units.append(unpack_units(exchange, leaf.kind, alone))
        if first < leaf.units:
            team = [rows(range(first, leaf.units), m) for m in range(exchange.team)]
            part = exchange.fraction(kind)
            units.append(unpack_fractions(exchange, leaf.kind, part, team))
        shapes = {key: x.shape for key, x in arrays[leaf.name].items()}
        for field in leaf.kind.outputs:
            shapes.setdefault(field.key, arrays[leaf.name]["updates"].shape)
        back[leaf.name] = unpack_leaf(leaf.kind, units, shapes)
    return back
