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

from orthoptax._types import Compressed
from orthoptax.layout.links import MatrixLinks, matrix_names
from orthoptax.sharding.context import varying
from orthoptax.sharding.exchange import Exchange, Signature
from orthoptax.sharding.packing import (
    assemble,
    disassemble,
    pack_leaf,
    unpack_leaf,
)
from orthoptax.sharding.units import Kind, Path, StateKey

Arrays = dict[Any, jax.Array]


@dataclasses.dataclass(frozen=True)
class Work:
    """The links, as kinds of whole matrices see them.

    common: states that belong to no matrix, by path. extra: arguments passed on as they
    are. given: 'params' if the links are given parameters, 'tree/...' for each tree.
    """

    links: MatrixLinks
    common: Mapping[Path, Any]
    extra: Mapping[str, Any]
    given: frozenset[str]

    def run(self, stacks: Mapping[Kind, Arrays]) -> tuple[dict[Kind, Arrays], dict]:
        """One update of stacks of whole matrices, {kind: {field key: array}}.

        Returns: (outputs in the same form, new common states by path).
        """
        leaves = {k.name: a["updates"] for k, a in stacks.items()}
        about = {k.name: k.leaf for k in stacks}
        params = None
        if "params" in self.given:
            # What the links do not read did not travel; they get a stand-in.
            params = {k.name: a.get("params", a["updates"]) for k, a in stacks.items()}
        trees = {
            key.removeprefix("tree/"): {
                k.name: a.get(key, a["updates"]) for k, a in stacks.items()
            }
            for key in self.given - {"params"}
        }
        result, new = self.links.update(
            leaves, about, self._state(stacks), params, trees, self.extra
        )
        return self._outputs(stacks, result, new)

    def _state(self, stacks: Mapping[Kind, Arrays]) -> Any:
        """The links' state, of the kinds alone."""
        abstract = {
            k.name: jax.ShapeDtypeStruct(a["updates"].shape, a["updates"].dtype)
            for k, a in stacks.items()
        }
        about = {k.name: k.leaf for k in stacks}
        shapes = jax.eval_shape(lambda x: self.links.init(x, about), abstract)
        known = dict(self.common)
        for kind, arrays in stacks.items():
            names = matrix_names(kind.name, kind.leaf.view)
            for key, x in arrays.items():
                if isinstance(key, StateKey):
                    known[key.path(names)] = x
        paths, treedef = jax.tree_util.tree_flatten_with_path(shapes)
        return jax.tree.unflatten(treedef, [known[path] for path, _ in paths])

    def _outputs(
        self, stacks: Mapping[Kind, Arrays], result: Any, new: Any
    ) -> tuple[dict[Kind, Arrays], dict]:
        """Results and states, sorted by kind."""
        after = dict(jax.tree_util.tree_flatten_with_path(new)[0])
        outputs: dict[Kind, Arrays] = {}
        for kind in stacks:
            names = matrix_names(kind.name, kind.leaf.view)
            arrays: Arrays = {}
            for field in kind.outputs:
                if isinstance(field.key, StateKey):
                    arrays[field.key] = after[field.key.path(names)]
                elif isinstance(result, Compressed):
                    arrays[field.key] = getattr(result, str(field.key))[kind.name]
                else:
                    arrays[field.key] = result[kind.name]
            outputs[kind] = arrays
        return outputs, {path: after[path] for path in self.common}


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
    parts = []
    if any(exchange.common):
        parts.append(_units(exchange, work, exchange.common, received[:, :n]))
    rest_rows = exchange.chunk_rows(True) - exchange.unit_rows(exchange.common, True)
    if rest_rows:
        branches = [
            lambda rows, s=signature: _pad(_units(exchange, work, s, rows), rest_rows)
            for signature in exchange.branches
        ]
        owner = _index(exchange.split + (() if exchange.gather else exchange.cut))
        which = jnp.asarray(exchange.table)[owner]
        parts.append(lax.switch(which, branches, received[:, n:]))
    results = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
    return _take_back(exchange, results, arrays)


def pieces(exchange: Exchange) -> list[list[tuple[str, int]]]:
    """For each owner the units it works on, (leaf name, unit), in their order."""
    order: dict[int, list[tuple[str, int]]] = {}
    same = [k.same() for k in exchange.kinds]
    for leaf in exchange.leaves:
        kind = same.index(leaf.kind.same())
        order.setdefault(kind, []).extend((leaf.name, u) for u in range(leaf.units))
    result = []
    for share in exchange.shares:
        first, rest = [], []
        for k, common in enumerate(exchange.common):
            ids = [order[k][i] for i in share.get(k, ())]
            first += ids[:common]
            rest += ids[common:]
        result.append(first + rest)
    return result


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
    packed = {
        x.name: pack_leaf(exchange, x.kind, arrays[x.name]) for x in exchange.leaves
    }
    size = exchange.chunk_rows(False)
    chunks = []
    for units in pieces(exchange):
        rows = [packed[name][u] for name, u in units]
        empty = jnp.zeros((0, exchange.wire.lane), exchange.wire.word)
        chunks.append(_pad(jnp.concatenate([empty, *rows]) if rows else empty, size, 0))
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
    exchange: Exchange, work: Work, signature: Signature, rows: jax.Array
) -> jax.Array:
    """The work on a signature's units: (devices, rows, lane) to the same."""
    stacks, start = {}, 0
    for kind, units in zip(exchange.kinds, signature, strict=True):
        if units:
            size = units * sum(exchange.rows(kind, False))
            x = rows[:, start : start + size]
            x = x.reshape(x.shape[0], units, -1, exchange.wire.lane)
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


def _take_back(
    exchange: Exchange, results: jax.Array, arrays: Mapping[str, Arrays]
) -> dict[str, Arrays]:
    """Results to the devices whose parts they are."""
    if exchange.gather:
        results = results[_index(exchange.cut)][None]
    elif exchange.cut:
        results = lax.all_to_all(results, exchange.cut, 0, 0, tiled=True)
    if exchange.split:
        results = _collect(results, exchange)
        results = results.reshape(-1, *results.shape[2:])
    found: dict[tuple[str, int], jax.Array] = {}
    rows = {x.name: sum(exchange.rows(x.kind, True)) for x in exchange.leaves}
    for owner, units in enumerate(pieces(exchange)):
        start = 0
        for name, unit in units:
            found[name, unit] = results[owner, start : start + rows[name]]
            start += rows[name]
    back = {}
    for leaf in exchange.leaves:
        stack = jnp.stack([found[leaf.name, u] for u in range(leaf.units)])
        shapes = {key: x.shape for key, x in arrays[leaf.name].items()}
        for field in leaf.kind.outputs:
            shapes.setdefault(field.key, arrays[leaf.name]["updates"].shape)
        back[leaf.name] = unpack_leaf(exchange, leaf.kind, stack, shapes)
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
