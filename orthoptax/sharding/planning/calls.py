# SPDX-License-Identifier: Apache-2.0
"""What an optimizer asks of a place, found out from shapes alone."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from orthoptax._check import is_callable, message
from orthoptax._types import Compressed, Place
from orthoptax.layout.links import Leaf, MatrixLinks
from orthoptax.sharding.compiled.collectives import Collective
from orthoptax.sharding.cuts import Cuts, cuts_of
from orthoptax.sharding.exchange import Exchange
from orthoptax.sharding.planning.traced import Flops, times, traced_flops
from orthoptax.sharding.planning.traced_moves import traced_on_parts
from orthoptax.sharding.schedule import (
    Grouped,
    Request,
    Schedule,
    grouped,
    scheduled,
)
from orthoptax.sharding.units import Field, Kind, Path
from orthoptax.sharding.work import Work

Optimizer = Callable[[Place], optax.GradientTransformation]
"""optimizer(place): the transformation whose matrix links run at that place."""


@dataclasses.dataclass(frozen=True)
class Call:
    """The links of one `on_matrices`, and the leaves it runs them on.

    about: view and whole shape of each leaf. dtypes: {'updates' | 'params' |
    'tree/...': {leaf name: dtype}}. state: shapes of the links' state, by path. extra:
    other arguments, arrays as shapes.
    """

    links: MatrixLinks
    about: Mapping[str, Leaf]
    dtypes: Mapping[str, Mapping[str, Any]]
    state: Mapping[Path, Any]
    extra: Mapping[str, Any]
    flops: dict[Any, Flops] = dataclasses.field(default_factory=dict)
    groups: dict[Any, Grouped] = dataclasses.field(default_factory=dict)

    def cuts(
        self, specs: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> dict[str, Cuts]:
        """The cuts of each leaf."""
        return {n: cuts_of(specs[n], x.shape, sizes, n) for n, x in self.about.items()}

    def schedule(
        self,
        specs: Mapping[str, Any],
        sizes: Mapping[str, int],
        axes: tuple[str, ...],
        transport: Any,
        team: int = 1,
    ) -> Schedule:
        """The exchanges that `whole_matrices` makes, over these mesh axes."""
        request = Request(
            self.links,
            self.about,
            self.dtypes,
            self.cuts(specs, sizes),
            sizes,
            axes,
            transport,
            self.extra,
            team,
        )
        if axes not in self.groups:  # once for all teams
            self.groups[axes] = grouped(request)
        return scheduled(self.groups[axes], request)

    def unit_flops(
        self, kind: Kind, common: tuple[Path, ...], platform: str | None
    ) -> Flops:
        """Operations of the links on one unit; traced once for units that are alike."""
        inputs = tuple((f.key, f.shape, f.dtype) for f in kind.inputs)
        key = kind.leaf, inputs, platform
        if key not in self.flops:
            run, shapes = self._program([(kind, 1)], common)
            self.flops[key] = traced_flops(run, *shapes, platform=platform)
        return times(self.flops[key], kind.grain)

    def joint_work(
        self, exchange: Exchange, common: tuple[Path, ...], platform: str | None
    ) -> tuple[Flops, tuple[Collective, ...]]:
        """Operations and collectives of what a team does together."""
        units = [(part.kind, n * part.kind.grain) for _, part, n in exchange.together]
        if not units:
            return Flops(), ()
        run, shapes = self._program(units, common, exchange.parts)
        return traced_on_parts(run, exchange.sizes, *shapes, platform=platform)

    def update_at(self, place: Place) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The update of the links at a place, and the shapes of its arguments."""
        leaves, treedef = jax.tree.flatten(self.extra)
        arrays = {i: x for i, x in enumerate(leaves) if _is_array(x)}
        trees = {
            key: {
                n: jax.ShapeDtypeStruct(x.shape, kinds[n])
                for n, x in self.about.items()
            }
            for key, kinds in self.dtypes.items()
        }
        updates, params = trees.pop("updates"), trees.pop("params", None)
        trees = {key.removeprefix("tree/"): tree for key, tree in trees.items()}
        state = jax.eval_shape(lambda x: self.links.init(x, self.about), updates)

        def run(updates: Any, state: Any, params: Any, trees: Any, arrays: Any) -> Any:
            extra = treedef.unflatten([arrays.get(i, x) for i, x in enumerate(leaves)])
            known = self.links, updates, self.about, state, params, trees, extra
            return place.update(*known)

        return run, (updates, state, params, trees, arrays)

    def _program(
        self,
        units: Sequence[tuple[Kind, int]],
        common: tuple[Path, ...],
        parts: Mapping[str, Any] | None = None,
    ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The links on so many batch elements of each kind, and its arguments."""
        leaves, treedef = jax.tree.flatten(self.extra)
        arrays = {i: x for i, x in enumerate(leaves) if _is_array(x)}

        def run(inputs: Any, states: Any, arrays: Any) -> Any:
            shared = dict(zip(common, states, strict=True))
            extra = [arrays.get(i, x) for i, x in enumerate(leaves)]
            given = frozenset(self.dtypes) - {"updates"}
            work = Work(self.links, shared, treedef.unflatten(extra), given)
            work = work if parts is None else work.on(parts)
            stacks = {
                kind: dict(zip([f.key for f in kind.inputs], xs, strict=True))
                for (kind, _), xs in zip(units, inputs, strict=True)
            }
            outputs = work.run(stacks)[0]
            return [list(x.values()) for x in outputs.values()]

        inputs = [[_shape(f, number) for f in kind.inputs] for kind, number in units]
        return run, (inputs, [self.state[path] for path in common], arrays)


def call(
    links: MatrixLinks,
    leaves: Any,
    about: Mapping[str, Leaf],
    state: Any,
    params: Any,
    trees: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> Call:
    """What the arguments of a place's `update` ask for."""
    given = {"updates": leaves}
    given |= {} if params is None else {"params": params}
    given |= {f"tree/{key}": tree for key, tree in trees.items()}
    dtypes = {k: {n: jnp.dtype(t[n].dtype) for n in about} for k, t in given.items()}
    by_path = jax.tree_util.tree_flatten_with_path(state)[0]
    shapes = {path: _abstract(x) for path, x in by_path}
    return Call(links, about, dtypes, shapes, jax.tree.map(_abstract, dict(extra)))


class _Recorder:
    """A place that writes down what it is asked for, and does nothing."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def whole(self, name: str, leaf: Any) -> Any:
        """The leaf, which is whole."""
        del name
        return leaf

    def init(self, links: MatrixLinks, leaves: Any, about: Mapping[str, Leaf]) -> Any:
        """The links' state."""
        return links.init(leaves, about)

    def update(
        self,
        links: MatrixLinks,
        leaves: Any,
        about: Mapping[str, Leaf],
        state: Any,
        params: Any,
        trees: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> tuple[Any, Any]:
        """Leaves and a state of the right kind."""
        if not leaves:
            return leaves, state
        self.calls.append(call(links, leaves, about, state, params, trees, extra))
        name = next(iter(leaves))  # stands for all: do results come in twos?
        one = lambda tree: {name: tree[name]}
        result, _ = links.update(
            one(leaves),
            about,
            links.init(one(leaves), about),
            None if params is None else one(params),
            {key: one(tree) for key, tree in trees.items()},
            extra,
        )
        both = isinstance(result, Compressed)
        return (Compressed(leaves, leaves) if both else leaves), state


def calls(params: Any, optimizer: Optimizer, where: str = "plan") -> list[Call]:
    """Finds out what an optimizer asks of a place in one update.

    Args:
      params: the tree, or its shapes; nothing is computed.
      optimizer: a function of the place, for example
        `lambda place: muon(0.02, place=place)`.
      where: the name that error messages begin with.
    Returns: one `Call` an `on_matrices` that met a matrix, in the order they run.
    Raises: TypeError if `optimizer` is no such function; ValueError if no matrix meets
      the place.
    Example:
      >>> from orthoptax.layout.wrap import on_matrices
      >>> tree = {"dense": {"kernel": jax.ShapeDtypeStruct((4, 8), jnp.float32)}}
      >>> [call] = calls(tree, lambda place: on_matrices(place=place))
      >>> list(call.about)
      ['dense/kernel']
    """
    example = "lambda place: muon(0.02, place=place)"
    is_callable(where, "optimizer", optimizer, example)
    recorder = _Recorder()
    tx = optimizer(recorder)
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        wrong = f"optimizer(place) is a {type(tx).__name__}, no optimizer"
        expected = "a GradientTransformation"
        raise TypeError(message(where, wrong, expected, f"Pass for example {example}"))
    shapes = jax.tree.map(_abstract, params)
    state = jax.eval_shape(tx.init, shapes)
    jax.eval_shape(tx.update, shapes, state, shapes)
    if not recorder.calls:
        raise ValueError(
            message(
                where,
                "the optimizer brought no matrix to the place it was given",
                "an on_matrices(..., place=place) and at least one matrix",
                f"Pass for example optimizer={example}, and check the layout",
            )
        )
    return recorder.calls


def _abstract(x: Any) -> Any:
    """Shape and dtype of an array; anything else as it is."""
    array = hasattr(x, "shape") and hasattr(x, "dtype")
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if array else x


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def _shape(field: Field, number: int) -> jax.ShapeDtypeStruct:
    """A batch of so many."""
    return jax.ShapeDtypeStruct((number, *field.shape), field.dtype)
