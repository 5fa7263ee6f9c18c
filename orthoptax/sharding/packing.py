# SPDX-License-Identifier: Apache-2.0
"""Between arrays and the buffers that travel. Per device, no communication."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax.sharding.cuts import parts_of
from orthoptax.sharding.exchange import Exchange, Wire
from orthoptax.sharding.teams import Fraction, cut_units, join_units
from orthoptax.sharding.units import Field, Kind

Arrays = Mapping[Any, jax.Array]
"""{field key: array}."""


def to_units(x: jax.Array, field: Field, grain: int) -> jax.Array:
    """One device's part of a leaf as (units, numbers of a unit)."""
    rest = [a for a in range(x.ndim) if a not in field.batch]
    x = jnp.transpose(x, (*field.batch, *rest))
    units = math.prod(x.shape[: len(field.batch)]) // grain
    return x.reshape(units, -1)


def from_units(x: jax.Array, field: Field, shape: Sequence[int]) -> jax.Array:
    """The inverse of `to_units`, for a part of this shape."""
    rest = [a for a in range(len(shape)) if a not in field.batch]
    order = (*field.batch, *rest)
    x = x.reshape([shape[a] for a in order])
    return jnp.transpose(x, sorted(range(len(order)), key=order.__getitem__))


def to_rows(x: jax.Array, field: Field, wire: Wire) -> jax.Array:
    """(..., numbers) as (..., rows, lane) of words, padded with zeros."""
    x = x.astype(wire.dtype(field))
    lead = x.shape[:-1]
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag], axis=-1).reshape(*lead, -1)
    if x.dtype != wire.word:
        x = lax.bitcast_convert_type(x, wire.word).reshape(*lead, -1)
    short = -x.shape[-1] % wire.lane
    if short:
        x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, short)])
    return x.reshape(*lead, -1, wire.lane)


def from_rows(x: jax.Array, field: Field, count: int, wire: Wire) -> jax.Array:
    """The inverse of `to_rows`: (..., count) in the field's dtype."""
    dtype = wire.dtype(field)
    real = jnp.finfo(dtype).dtype if dtype.kind == "c" else dtype
    ratio = max(1, dtype.itemsize // wire.word.itemsize)
    lead = x.shape[:-2]
    x = x.reshape(*lead, -1)[..., : count * ratio]
    if real != wire.word:
        pieces = real.itemsize // wire.word.itemsize
        x = x.reshape(*lead, -1, pieces) if pieces > 1 else x
        x = lax.bitcast_convert_type(x, real)
    if dtype.kind == "c":
        x = x.reshape(*lead, -1, 2)
        x = lax.complex(x[..., 0], x[..., 1])
    return x.astype(field.dtype)


def pack_leaf(exchange: Exchange, kind: Kind, arrays: Arrays) -> jax.Array:
    """One device's part of a leaf and all that travels with it: (units, rows, lane)."""
    units = {f.key: to_units(arrays[f.key], f, kind.grain) for f in kind.inputs}
    return pack_units(exchange, kind, units)


def pack_units(exchange: Exchange, kind: Kind, units: Arrays) -> jax.Array:
    """The same of (units, numbers) arrays."""
    parts = []
    for field in kind.inputs:
        x = units[field.key]
        copies = exchange.copies(kind, field)
        if copies:  # each device that holds a copy sends its share of it
            share, many = exchange.share(kind, field), parts_of(copies, exchange.sizes)
            x = jnp.pad(x, ((0, 0), (0, share * many - x.shape[1])))
            x = x.reshape(-1, many, share)
            x = lax.dynamic_index_in_dim(x, lax.axis_index(copies), 1, keepdims=False)
        parts.append(to_rows(x, field, exchange.wire))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def pack_fractions(
    exchange: Exchange, kind: Kind, part: Fraction, arrays: Arrays, first: int
) -> list[jax.Array]:
    """What each member of a team gets of the units from `first` on."""
    cut = {}
    for field in kind.inputs:
        x = to_units(arrays[field.key], field, kind.grain)[first:]
        axis = part.axes.get(field.key)
        cut[field.key] = cut_units(
            x, field, axis, kind.grain, exchange.team, exchange.sizes
        )
    return [
        pack_units(exchange, part.kind, {key: x[member] for key, x in cut.items()})
        for member in range(exchange.team)
    ]


def unpack_units(
    exchange: Exchange, kind: Kind, rows: jax.Array
) -> dict[Any, jax.Array]:
    """The outputs as (units, numbers) arrays, from (units, rows, lane)."""
    result, start = {}, 0
    for field, size in zip(kind.outputs, exchange.rows(kind, True), strict=True):
        count = exchange.count(kind, field)
        x = rows[:, start : start + size]
        result[field.key] = from_rows(x, field, count, exchange.wire)
        start += size
    return result


def unpack_fractions(
    exchange: Exchange, kind: Kind, part: Fraction, rows: Sequence[jax.Array]
) -> dict[Any, jax.Array]:
    """The same from what each member of a team made."""
    members = [unpack_units(exchange, part.kind, x) for x in rows]
    result = {}
    for field in kind.outputs:
        x = jnp.stack([units[field.key] for units in members])
        axis = part.axes.get(field.key)
        result[field.key] = join_units(
            x, field, axis, kind.grain, exchange.team, exchange.sizes
        )
    return result


def unpack_leaf(
    kind: Kind, units: Sequence[Arrays], shapes: Mapping[Any, Sequence[int]]
) -> dict[Any, jax.Array]:
    """The outputs of a leaf, one device's part, from its units, some after others."""
    result = {}
    for field in kind.outputs:
        pieces = [some[field.key] for some in units]
        x = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
        result[field.key] = from_units(x, field, shapes[field.key])
    return result


def assemble(exchange: Exchange, kind: Kind, rows: jax.Array) -> dict[Any, jax.Array]:
    """Whole arrays from all parts: (devices, units, rows, lane) to (batch, ...)."""
    result, start = {}, 0
    for field, size in zip(kind.inputs, exchange.rows(kind, False), strict=True):
        share = exchange.share(kind, field)
        x = from_rows(rows[:, :, start : start + size], field, share, exchange.wire)
        result[field.key] = _join(exchange, kind, field, x)
        start += size
    return result


def disassemble(exchange: Exchange, kind: Kind, arrays: Arrays) -> jax.Array:
    """The parts of whole arrays: (batch, ...) to (devices, units, rows, lane)."""
    parts = [
        to_rows(_cut(exchange, kind, f, arrays[f.key]), f, exchange.wire)
        for f in kind.outputs
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2)


def _join(exchange: Exchange, kind: Kind, field: Field, x: jax.Array) -> jax.Array:
    """(devices, units, numbers of a share) to (units * grain, *whole shape)."""
    sizes, cut = exchange.sizes, kind.cut
    copies = exchange.copies(kind, field)
    used = [n for n in cut if n not in copies]
    units = x.shape[1]
    x = x.reshape(*(sizes[n] for n in cut), units, -1)
    if copies:  # (used ..., units, copies ..., share): shares lie one after the other
        at = {n: i for i, n in enumerate(cut)}
        order = [at[n] for n in used] + [len(cut)] + [at[n] for n in copies]
        x = jnp.transpose(x, (*order, len(cut) + 1))
        x = x.reshape(*(sizes[n] for n in used), units, -1)
        x = x[..., : exchange.count(kind, field)]
    here = field.here(sizes)
    x = x.reshape(*(sizes[n] for n in used), units * kind.grain, *here)
    order = [len(used)]
    for axis, names in enumerate(field.cuts):
        order += [used.index(n) for n in names] + [len(used) + 1 + axis]
    return jnp.transpose(x, order).reshape(units * kind.grain, *field.shape)


def _cut(exchange: Exchange, kind: Kind, field: Field, x: jax.Array) -> jax.Array:
    """(units * grain, *whole shape) to (devices, units, numbers of a part)."""
    sizes, cut = exchange.sizes, kind.cut
    copies = exchange.copies(kind, field)
    used = [n for n in cut if n not in copies]
    split: list[int] = [x.shape[0]]
    place: dict[str, int] = {}
    rest: list[int] = []
    for size, names in zip(field.here(sizes), field.cuts, strict=True):
        for name in names:
            place[name] = len(split)
            split.append(sizes[name])
        rest.append(len(split))
        split.append(size)
    x = jnp.transpose(x.reshape(split), (*(place[n] for n in used), 0, *rest))
    units = x.shape[len(used)] // kind.grain
    x = x.reshape(*(sizes[n] for n in used), units, -1)
    if copies:  # every device gets the whole part
        shape = [sizes[n] if n in used else 1 for n in cut]
        x = x.reshape(*shape, *x.shape[len(used) :])
        x = jnp.broadcast_to(x, (*(sizes[n] for n in cut), *x.shape[len(cut) :]))
    return x.reshape(-1, units, x.shape[-1])
