# SPDX-License-Identifier: Apache-2.0
"""From a tree of leaves and their specs to exchanges. Static: shapes in, plans out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from orthoptax._check import message
from orthoptax._types import Compressed
from orthoptax.layout.links import Leaf, MatrixLinks, matrix_names
from orthoptax.sharding.cuts import Cuts, parts_of, state_cuts
from orthoptax.sharding.exchange import Exchange, plan_exchange
from orthoptax.sharding.units import (
    Field,
    Kind,
    LeafUnits,
    Path,
    StateKey,
    check_batch,
    check_entries,
    grain_of,
    is_basis,
    needed,
    polar_flops,
    stacked_view,
    state_index,
)


class Schedule(NamedTuple):
    """Every exchange of an update.

    state: {leaf name: {state key: path}}. common: paths of the other states. cuts:
    {(leaf name, field key): cuts of its array, batch axes included}. read: which of
    'params' and the extra trees the links read.
    """

    exchanges: tuple[Exchange, ...]
    state: Mapping[str, Mapping[StateKey, Path]]
    common: tuple[Path, ...]
    cuts: Mapping[tuple[str, Any], Cuts]
    read: frozenset[str]


class Request(NamedTuple):
    """What a schedule is made from.

    dtypes: {'updates' | 'params' | 'tree/...': {leaf name: dtype}}; those after
    'updates' are optional. cuts: of each leaf. sizes: of every mesh axis, in order.
    axes: those that may be used. transport: dtype of travelling updates, or None.
    extra: arguments that the links are given as they are, or None. team: devices that
    work together on matrices that do not go evenly.
    """

    links: MatrixLinks
    about: Mapping[str, Leaf]
    dtypes: Mapping[str, Mapping[str, Any]]
    cuts: Mapping[str, Cuts]
    sizes: Mapping[str, int]
    axes: tuple[str, ...]
    transport: Any
    extra: Mapping[str, Any] | None = None
    team: int = 1


class Grouped(NamedTuple):
    """The leaves, those together that are exchanged together; else as in `Schedule`.

    groups: {(axes that cut them, axes that share the work): leaves}.
    """

    groups: Mapping[tuple[tuple[str, ...], tuple[str, ...]], Sequence[LeafUnits]]
    state: Mapping[str, Mapping[StateKey, Path]]
    common: tuple[Path, ...]
    cuts: Mapping[tuple[str, Any], Cuts]
    read: frozenset[str]


def schedule(request: Request) -> Schedule:
    """Plans all exchanges of an update."""
    return scheduled(grouped(request), request)


def scheduled(found: Grouped, request: Request) -> Schedule:
    """The same, where leaves are grouped already."""
    sizes, transport, team = request.sizes, request.transport, request.team
    exchanges = tuple(
        plan_exchange(leaves, sizes, cut, split, transport, team)
        for (cut, split), leaves in found.groups.items()
    )
    return Schedule(exchanges, *found[1:])


def grouped(request: Request) -> Grouped:
    """What travels with each leaf, and which leaves travel together."""
    links, about = request.links, request.about
    names = {m: n for n in about for m in matrix_names(n, about[n].view)}
    whole = {
        n: jax.ShapeDtypeStruct(leaf.shape, request.dtypes["updates"][n])
        for n, leaf in about.items()
    }
    state = jax.eval_shape(lambda x: links.init(x, about), whole)
    by_path = dict(jax.tree_util.tree_flatten_with_path(state)[0])
    index, common = state_index(state, names)
    read, results = _probe(request, whole)
    cuts: dict[tuple[str, Any], Cuts] = {}
    groups: dict[Any, list[LeafUnits]] = {}
    for name in about:
        check_entries(name, about[name].shape)
        lies = request.cuts[name]
        cuts |= {(name, key): lies for key in ("updates", *read, *results)}
        states = _state_cuts(
            name, about[name], lies, request.sizes, index[name], by_path
        )
        cuts |= {(name, key): cut for key, cut in states.items()}
        own = {key: by_path[path] for key, path in index[name].items()}
        leaf, where = _leaf_units(request, name, own, cuts, read, results)
        groups.setdefault(where, []).append(leaf)
    return Grouped(groups, index, tuple(common), cuts, frozenset(read))


def _probe(
    request: Request, whole: Mapping[str, Any]
) -> tuple[set[str], tuple[str, ...]]:
    """(the optional inputs that links read, the names of their results).

    Looked up on one leaf of each form.
    """
    links, about = request.links, request.about
    forms = {(leaf, request.dtypes["updates"][n]): n for n, leaf in about.items()}
    some = {n: whole[n] for n in forms.values()}
    optional = {
        key: {n: jax.ShapeDtypeStruct(some[n].shape, dtypes[n]) for n in some}
        for key, dtypes in request.dtypes.items()
        if key != "updates"
    }
    state = jax.eval_shape(lambda x: links.init(x, about), some)

    def update(given: Any, leaves: Any, state: Any) -> Any:
        given = dict(given)
        params = given.pop("params", None)
        trees = {key.removeprefix("tree/"): tree for key, tree in given.items()}
        return links.update(leaves, about, state, params, trees, request.extra)

    result, _ = jax.eval_shape(update, optional, some, state)
    results = ("out", "kept") if isinstance(result, Compressed) else ("updates",)
    return needed(update, optional, some, state), results


def _leaf_units(
    request: Request,
    name: str,
    state: Mapping[StateKey, Any],
    cuts: Mapping[tuple[str, Any], Cuts],
    read: set[str],
    results: Sequence[str],
) -> tuple[LeafUnits, tuple[tuple[str, ...], tuple[str, ...]]]:
    """(a leaf with its units, the axes that cut them and the axes that share them)."""
    leaf, sizes = request.about[name], request.sizes
    batch, rows, cols = leaf.view.axes(leaf.shape)
    by_batch = {n for a in batch for n in request.cuts[name][a]}
    inside = {n for a in (*rows, *cols) for n in request.cuts[name][a]}
    _check_axes(request, name, by_batch | inside)
    cut = tuple(n for n in sizes if n in inside)
    split = tuple(
        n for n in request.axes if n not in by_batch | inside and sizes[n] > 1
    )
    count = math.prod(
        leaf.shape[a] // parts_of(request.cuts[name][a], sizes) for a in batch
    )
    grain = grain_of(count, parts_of(cut + split, sizes))
    rest = [a for a in range(len(leaf.shape)) if a not in batch]

    def array(key: str, dtype: Any) -> Field:
        part = cuts[name, key]
        shape = tuple(leaf.shape[a] for a in rest)
        return Field(key, shape, tuple(part[a] for a in rest), jnp.dtype(dtype), batch)

    def number(key: StateKey, x: Any) -> Field:
        lead = len(batch)
        part = cuts[name, key][lead:]
        return Field(key, x.shape[lead:], part, jnp.dtype(x.dtype), tuple(range(lead)))

    states = tuple(number(key, x) for key, x in state.items())
    dtypes = request.dtypes
    inputs = [array(k, dtypes[k][name]) for k in ("updates", *sorted(read))]
    outputs = [array(k, dtypes["updates"][name]) for k in results]
    kind = Kind(
        name,
        Leaf(stacked_view(leaf.view, leaf.shape), leaf.shape),
        grain,
        (*inputs, *states),
        (*outputs, *states),
        cut,
        polar_flops(leaf.view, leaf.shape) * grain / max(1, _size(leaf, batch)),
    )
    return LeafUnits(name, leaf, kind, count // grain), (cut, split)


def _size(leaf: Leaf, axes: Sequence[int]) -> int:
    return math.prod(leaf.shape[a] for a in axes)


def _check_axes(request: Request, name: str, used: set[str]) -> None:
    """Raises if a leaf is cut over an axis that the place may not use."""
    foreign = sorted(used - set(request.axes))
    if foreign:
        raise ValueError(
            message(
                "sharding",
                f"{name!r} is cut over the mesh axes {foreign}, but the place uses "
                f"{list(request.axes)} only",
                "all axes that cut a matrix among them",
                "Leave axes=None, or add these",
            )
        )


def state_cuts_of(
    where: Any, links: MatrixLinks, leaves: Mapping[str, Any], about: Mapping[str, Leaf]
) -> dict[Path, Cuts]:
    """{path of a state: its cuts}, of the states that belong to a matrix."""
    names = {m: n for n in about for m in matrix_names(n, about[n].view)}
    whole = {
        n: jax.ShapeDtypeStruct(leaf.shape, leaves[n].dtype)
        for n, leaf in about.items()
    }
    state = jax.eval_shape(lambda x: links.init(x, about), whole)
    by_path = dict(jax.tree_util.tree_flatten_with_path(state)[0])
    found: dict[Path, Cuts] = {}
    for name, own in state_index(state, names)[0].items():
        cuts = where.cuts(name, about[name].shape)
        each = _state_cuts(name, about[name], cuts, where.sizes, own, by_path)
        found |= {own[key]: cut for key, cut in each.items()}
    return found


def _state_cuts(
    name: str,
    leaf: Leaf,
    cuts: Cuts,
    sizes: Mapping[str, int],
    own: Mapping[StateKey, Path],
    by_path: Mapping[Path, Any],
) -> dict[StateKey, Cuts]:
    """How the states of a leaf are cut; raises for one that cannot travel with it."""
    matrices = leaf.view.shapes(leaf.shape)
    found = {}
    for key, path in own.items():
        x, matrix = by_path[path], matrices[key.block]
        check_batch(name, path, x.shape, matrix[:-2])
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            raise TypeError(
                message(
                    "sharding",
                    f"the state {keystr(path)} of {name!r} is a random key",
                    "numbers, or one key for all matrices",
                    "Fold the name of the matrix into one key",
                )
            )
        found[key] = state_cuts(x.shape, matrix, leaf, cuts, sizes, is_basis(path))
    return found


def placed_state(
    where: Any, links: MatrixLinks, leaves: Mapping[str, Any], about: Mapping[str, Leaf]
) -> Any:
    """The links' first state, each part where its cuts say.

    Made from zeros, which are compiled away and so take no memory: a state that depends
    on the parameters' values would need them whole.
    """
    cuts = state_cuts_of(where, links, leaves, about)

    def new() -> Any:
        zeros = {n: jnp.zeros(about[n].shape, x.dtype) for n, x in leaves.items()}
        return links.init(zeros, about)

    return jax.tree_util.tree_map_with_path(
        lambda path, x: where.put(x, cuts.get(path)), jax.jit(new)()
    )
