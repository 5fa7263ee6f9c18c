# SPDX-License-Identifier: Apache-2.0
"""Links that need matrices, run on matrices; and the optimizer of two groups."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax._check import is_callable, message
from orthoptax._types import Compressed, Layout, Place
from orthoptax.layout.full import OF_PARAMS, on_full_params
from orthoptax.layout.leaves import parameters
from orthoptax.layout.links import Leaf, here, linked
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.layout.tables import flax


class OnMatricesState(NamedTuple):
    """State of `on_matrices`.

    links: one state a link, of dictionaries {matrix name: array}; where a tree has no
      leaves, one int32 zero.
    """

    links: Any


def on_matrices(
    *links: optax.GradientTransformation,
    layout: Layout | None = None,
    place: Place | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Runs a chain of links on the matrices of a tree.

    The links see a flat dictionary {leaf name: (*batch, rows, cols)}, one entry a leaf
    that the layout calls a matrix ('qkv/kernel[0]', '[1]', ... for the blocks of a
    fused one), and their results go back to the leaf's own shape. Leaves that are not
    matrices pass through.

    Args:
      *links: transforms; none means the identity. One may be a `Compressor`: links
        after it work on what goes on, and both its trees go back to the leaves' shapes.
        Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
      place: where the links run, for example `orthoptax.sharding.whole_matrices(...)`;
        None: here. Static.
    State:
      links: the links' states, keyed by matrix name.
    Returns: a `GradientTransformationExtraArgs`; links also receive the extra argument
      `leaf_shapes`, {matrix name: shape of the whole leaf}.
    Raises: ValueError in `init` for a leaf the layout cannot decide, in `update` for an
      empty tree; TypeError for integer matrices.
    Example:
      >>> import optax
      >>> tx = on_matrices(optax.scale(-0.1))
      >>> tx.init({"dense": {"kernel": jnp.ones((4, 8))}}).links
      (EmptyState(),)

    Source: ours; optax `flatten` is the same idea for vectors.
    """
    layout = flax() if layout is None else layout
    is_callable("on_matrices", "layout", layout, "flax()")
    place = here if place is None else place
    is_place("on_matrices", place)
    work = linked(*links)

    def init(params: optax.Params) -> OnMatricesState:
        if not jax.tree.leaves(params):  # a placeholder, or a tree masked whole
            return OnMatricesState(jnp.zeros((), jnp.int32))
        about = _about(params, layout, place)
        return OnMatricesState(place.init(work, _pick(params, about), about))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, OnMatricesState]:
        if not jax.tree.leaves(updates):
            not_empty("on_matrices.update", updates)
            return updates, state
        about = _about(updates, layout, place)
        structure = jax.tree.structure(updates)
        trees = {k: v for k, v in extra.items() if is_like(v, structure)}
        result, links = place.update(
            work,
            _pick(updates, about),
            about,
            state.links,
            None if params is None else _pick(params, about),
            {k: _pick(v, about) for k, v in trees.items()},
            {k: v for k, v in extra.items() if k not in trees},
        )
        lower = lambda new: map_named(lambda n, u: new.get(n, u), updates)
        if isinstance(result, Compressed):
            return Compressed(*map(lower, result)), OnMatricesState(links)
        return lower(result), OnMatricesState(links)

    return optax.GradientTransformationExtraArgs(init, update)


class ByLayoutState(NamedTuple):
    """matrix, rest: the state of each group, on its own leaves."""

    matrix: Any
    rest: Any


def by_layout(
    *,
    matrix: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
    place: Place | None = None,
) -> optax.GradientTransformationExtraArgs:
    """One transform for the matrices of a tree, another for the rest.

    Args:
      matrix: for leaves that the layout calls matrices; None: the identity. Static.
      rest: for all others; None: the identity. Static.
      layout: which leaves are matrices; None: `flax()`. Static.
      place: knows the whole shape of a leaf that is cut over devices, for the layout's
        use; None: leaves are whole. Static.
    State:
      matrix, rest: states of the two; leaves of the other group are `MaskedNode`s.
    Returns: a `GradientTransformationExtraArgs`. Extra arguments shaped like the
      updates are cut to each group; scalars and callables go to both as they are, but
      `obj_fn`, `logits_fn`, `grad_fn` and `value_fn`, functions of all parameters, may
      be called by each group with its own (see `on_full_params`).
    Raises: ValueError in `init` for a leaf the layout cannot decide, in `update` for an
      empty tree; TypeError in `init` for integer leaves.
    Example:
      >>> import optax
      >>> tx = by_layout(matrix=optax.sgd(0.1), rest=optax.adam(1e-3))
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> round(float(updates["dense"]["kernel"][0, 0]), 3)
      -0.1

    Source: ours; optax `partition` with the labels read from names on every call.
    """
    layout = flax() if layout is None else layout
    is_callable("by_layout", "layout", layout, "flax()")
    place = here if place is None else place
    is_place("by_layout", place)
    groups = [
        optax.with_extra_args_support(optax.identity() if tx is None else tx)
        for tx in (matrix, rest)
    ]

    def cut(tree: Any, matrices: bool, views: Any) -> Any:
        keep = lambda n, x: x if (n in views) == matrices else optax.MaskedNode()
        return map_named(keep, tree)

    def init(params: optax.Params) -> ByLayoutState:
        views = _about(params, layout, place)
        return ByLayoutState(
            groups[0].init(cut(params, True, views)),
            groups[1].init(cut(params, False, views)),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ByLayoutState]:
        not_empty("by_layout.update", updates)
        views = _about(updates, layout, place)
        structure = jax.tree.structure(updates)
        if params is not None:
            ours = {k: v for k, v in extra.items() if k in OF_PARAMS and callable(v)}
            extra |= {k: on_full_params(v, params) for k, v in ours.items()}
        results = []
        for tx, part, matrices in zip(groups, state, (True, False), strict=True):
            take = lambda tree, m=matrices: cut(tree, m, views)
            results.append(
                tx.update(
                    take(updates),
                    part,
                    None if params is None else take(params),
                    **{k: map_if_like(take, v, structure) for k, v in extra.items()},
                )
            )
        ours, others = (named_leaves(u) for u, _ in results)
        merged = map_named(lambda n, _: ours[n] if n in views else others[n], updates)
        return merged, ByLayoutState(*(s for _, s in results))

    return optax.GradientTransformationExtraArgs(init, update)


def not_empty(where: str, tree: Any) -> None:
    """Raises if a tree holds nothing at all, not even masked leaves."""
    masked = lambda x: isinstance(x, optax.MaskedNode)
    if not jax.tree.leaves(tree, is_leaf=masked):
        raise ValueError(
            message(
                where,
                "the tree is empty",
                "at least one array",
                "Pass the parameters of the model, for NNX nnx.state(model, nnx.Param)",
            )
        )


def is_like(value: Any, structure: Any) -> bool:
    """Whether a value is a tree of the given structure, and not a bare leaf."""
    like = jax.tree.structure(value) == structure
    return like and not jax.tree_util.treedef_is_leaf(structure)


def map_if_like(fn: Any, value: Any, structure: Any) -> Any:
    """fn(value) if value is a tree of the given structure, and not a bare leaf."""
    return fn(value) if is_like(value, structure) else value


def is_place(where: str, place: Any) -> None:
    """Raises TypeError unless the argument `place` has a place's three methods."""
    if not all(hasattr(place, name) for name in ("whole", "init", "update")):
        raise TypeError(
            message(
                where,
                f"place={place!r} is no place",
                "an object with the methods whole, init and update",
                "Pass for example orthoptax.sharding.whole_matrices(specs, mesh=mesh)",
            )
        )


def _about(tree: Any, layout: Layout, place: Any) -> dict[str, Leaf]:
    """View and whole shape of each leaf that is a matrix; checks every leaf."""
    about = {}
    for name, part in parameters(tree).items():
        leaf = place.whole(name, part)
        view = layout(name, leaf)
        if view is not None:
            view.axes(leaf.shape, name)
            about[name] = Leaf(view, tuple(leaf.shape))
    return about


def _pick(tree: Any, about: dict[str, Leaf]) -> dict[str, jax.Array]:
    """{name: leaf} of the leaves that are matrices."""
    return {name: leaf for name, leaf in named_leaves(tree).items() if name in about}
