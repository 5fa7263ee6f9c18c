# SPDX-License-Identifier: Apache-2.0
"""What one device does: send parts, work on whole matrices, take its parts back.

Runs inside `shard_map` or `pmap`. No collective stands in a conditional branch, where
devices that take different branches would wait for each other for ever.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax._axes import varying
from orthoptax._check import message
from orthoptax.sharding.exchange import Exchange
from orthoptax.sharding.packing import assemble, disassemble
from orthoptax.sharding.pieces import packed, pieces, unpacked
from orthoptax.sharding.units import Kind, Path
from orthoptax.sharding.work import Arrays, Work


def perform_all(
    exchanges: Sequence[Exchange], work: Work, arrays: Mapping[Any, jax.Array]
) -> tuple[dict[Any, jax.Array], dict[Path, jax.Array]]:
    """Every exchange, one after the other.

    Args:
      exchanges: of different leaves.
      work: the links.
      arrays: {(field key, leaf name): this device's part}.
    Returns: (the outputs in the same form, the new states that belong to no matrix).
    """
    here: dict[str, Arrays] = {}
    for (key, name), part in arrays.items():
        here.setdefault(name, {})[key] = part
    done: dict[Any, jax.Array] = {}
    for exchange in exchanges:
        own = {x.name: here[x.name] for x in exchange.leaves}
        for name, outputs in perform(exchange, work, own).items():
            done |= {(key, name): x for key, x in outputs.items()}
    return done, common_after(exchanges[0], work)


def common_after(exchange: Exchange, work: Work) -> dict[Path, jax.Array]:
    """The new states that belong to no matrix: found on zeros, as no number matters."""
    if not work.common:
        return {}
    kind = min(exchange.kinds, key=lambda k: k.flops)
    whole = {f.key: jnp.zeros((kind.grain, *f.shape), f.dtype) for f in kind.inputs}
    return work.run({kind: whole})[1]


def perform(
    exchange: Exchange, work: Work, arrays: Mapping[str, Arrays]
) -> dict[str, Arrays]:
    """One exchange there, the work, and the exchange back.

    Args:
      exchange: who works on what.
      work: the links.
      arrays: {leaf name: {field key: this device's part}}.
    Returns: the outputs in the same form.
    """
    if exchange.silent:
        return _in_place(exchange, work, arrays)
    received = _send(exchange, arrays)
    n = exchange.unit_rows(exchange.common, False)
    alone = lambda signature: list(zip(exchange.kinds, signature, strict=True))
    parts = []
    if any(exchange.common):
        parts.append(_units(exchange, work, alone(exchange.common), received[:, :n]))
    if exchange.together:
        start, n = n, n + exchange.joint_rows(False)
        parts.append(_jointly(exchange, work, received[:, start:n]))
    even = exchange.unit_rows(exchange.common, True) + exchange.joint_rows(True)
    rest_rows = exchange.chunk_rows(True) - even
    if rest_rows:
        branches = [
            lambda rows, s=signature: _pad(
                _units(exchange, work, alone(s), rows[:, n:]), rest_rows
            )
            for signature in exchange.branches
        ]
        owner = _index(exchange.split + (() if exchange.gather else exchange.cut))
        which = jnp.asarray(exchange.table)[owner]
        parts.append(lax.switch(which, branches, received))
    results = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    return _take_back(exchange, results, arrays)


def _in_place(
    exchange: Exchange, work: Work, arrays: Mapping[str, Arrays]
) -> dict[str, Arrays]:
    """The work where every matrix is whole and nobody can help: no exchange."""
    own = {
        dataclasses.replace(x.kind, name=x.name, leaf=x.leaf): arrays[x.name]
        for x in exchange.leaves
    }
    outputs, _ = work.run(own)
    return {kind.name: out for kind, out in outputs.items()}


def _send(exchange: Exchange, arrays: Mapping[str, Arrays]) -> jax.Array:
    """Parts to owners: (devices, rows, lane), what each sent to this one."""
    owners = pieces(exchange)
    sent = packed(exchange, owners, arrays)
    size = exchange.chunk_rows(False)
    chunks = []
    for units in owners:
        empty = jnp.zeros((0, exchange.wire.lane), exchange.wire.word)
        rows = [sent[piece] for piece in units]
        chunks.append(_pad(jnp.concatenate([empty, *rows]), size, 0))
    buffer = jnp.stack(chunks)
    if exchange.split:
        buffer = buffer.reshape(exchange.teams, -1, *buffer.shape[1:])
        buffer = buffer[_index(exchange.split)]
    if exchange.gather:
        return lax.all_gather(buffer[0], exchange.cut)
    if exchange.cut:
        return lax.all_to_all(buffer, exchange.cut, 0, 0, tiled=True)
    return buffer


def _units(
    exchange: Exchange,
    work: Work,
    units: Sequence[tuple[Kind, int]],
    rows: jax.Array,
) -> jax.Array:
    """The work on so many units of each kind: (devices, rows, lane) to the same."""
    stacks, start = {}, 0
    for kind, number in units:
        if number:
            size = number * sum(exchange.rows(kind, False))
            x = rows[:, start : start + size]
            x = x.reshape(x.shape[0], number, -1, exchange.wire.lane)
            stacks[kind] = assemble(exchange, kind, x)
            start += size
    if not stacks:
        return rows[:, :0]
    outputs, _ = work.run(stacks)
    flat = [
        x.reshape(x.shape[0], -1, exchange.wire.lane)
        for x in (disassemble(exchange, k, outputs[k]) for k in stacks)
    ]
    return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=1)


def _jointly(exchange: Exchange, work: Work, rows: jax.Array) -> jax.Array:
    """The work on fractions; each team sums what its members have."""
    axes = exchange.split + exchange.cut
    if tracked(axes):
        raise ValueError(
            message(
                "whole_matrices",
                f"team={exchange.team} inside a shard_map with check_vma=True, which "
                "has no sums over some of the devices",
                "a shard_map with check_vma=False, or no teams",
                "Pass check_vma=False to it, or leave team=1",
            )
        )
    units = [(part.kind, number) for _, part, number in exchange.together]
    return _units(exchange, work.on(exchange.parts), units, rows)


def _take_back(
    exchange: Exchange, results: jax.Array, arrays: Mapping[str, Arrays]
) -> dict[str, Arrays]:
    """Results to the devices whose parts they are."""
    if exchange.gather:
        results = results[_index(exchange.cut)][None]
    elif exchange.cut:
        # Else a CPU's part of each exchange is compiled with its own copy of all this.
        results = lax.optimization_barrier(results)
        results = lax.all_to_all(results, exchange.cut, 0, 0, tiled=True)
    if exchange.split:
        results = _collect(results, exchange)
        results = results.reshape(-1, *results.shape[2:])
    back = unpacked(exchange, results, arrays)
    return _agree(exchange, back)


def tracked(axes: Sequence[str]) -> bool:
    """Whether `shard_map` tracks what varies over these axes (check_vma=True)."""
    return bool(varying(_index(axes)))


def _collect(x: jax.Array, exchange: Exchange) -> jax.Array:
    """What each team has: (teams, *x.shape).

    Where `shard_map` tracks what varies, an all-gathered array counts as varying; a sum
    of disjoint parts does not, at twice the ring bytes.
    """
    if not tracked(exchange.split):
        return lax.all_gather(x, exchange.split)
    blank = jnp.zeros((exchange.teams, *x.shape), x.dtype)
    return lax.psum(blank.at[_index(exchange.split)].set(x), exchange.split)


def _agree(
    exchange: Exchange, back: dict[str, dict[Any, jax.Array]]
) -> dict[str, dict[Any, jax.Array]]:
    """Outputs that several devices hold whole, known to be equal where that is tracked.

    One sum a set of axes, in which the first device's values count.
    """
    if not (exchange.cut and tracked(exchange.cut)):
        return back
    held: dict[tuple[str, ...], dict[tuple[str, Any], jax.Array]] = {}
    for leaf in exchange.leaves:
        for field in leaf.kind.outputs:
            copies = exchange.copies(leaf.kind, field)
            if copies:
                at = leaf.name, field.key
                held.setdefault(copies, {})[at] = back[leaf.name][field.key]
    for copies, values in held.items():
        first = _index(copies) == 0
        equal = lax.psum([jnp.where(first, x, 0) for x in values.values()], copies)
        for (name, key), x in zip(values, equal, strict=True):
            back[name][key] = x
    return back


def _index(axes: Sequence[str]) -> jax.Array:
    """This device's number, counted over some mesh axes."""
    return lax.axis_index(tuple(axes)) if axes else jnp.zeros((), jnp.int32)


def _pad(x: jax.Array, rows: int, axis: int = 1) -> jax.Array:
    """x with so many rows, the new ones zero."""
    short = rows - x.shape[axis]
    if not short:
        return x
    return jnp.pad(x, [(0, short if a == axis else 0) for a in range(x.ndim)])
