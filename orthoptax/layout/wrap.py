# SPDX-License-Identifier: Apache-2.0
"""Links that need matrices, run on matrices; and the optimizer of two groups."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax._check import is_callable, message
from orthoptax._types import Compressed, Layout, Place
from orthoptax.layout.leaves import parameters
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.layout.tables import flax
from orthoptax.layout.view import MatrixView


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
      *links: transforms; none means the identity. The last may be a `Compressor`, both
        of whose trees then go back to the leaves' shapes. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
      place: wraps the update of the links, to run it elsewhere; None: here. Static.
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
    chain = optax.chain(*links) if links else optax.identity()
    chain = optax.with_extra_args_support(chain)
    run: Any = chain.update if place is None else place(chain.update)

    def init(params: optax.Params) -> OnMatricesState:
        if not jax.tree.leaves(params):  # a placeholder, or a tree masked whole
            return OnMatricesState(jnp.zeros((), jnp.int32))
        return OnMatricesState(chain.init(_split(params, _views(params, layout))))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, OnMatricesState]:
        if not jax.tree.leaves(updates):
            not_empty("on_matrices.update", updates)
            return updates, state
        views = _views(updates, layout)
        shapes = {
            key: leaf.shape
            for name, leaf in named_leaves(updates).items()
            if name in views
            for key in _keys(name, views[name])
        }
        structure = jax.tree.structure(updates)
        lift = lambda tree: _split(tree, views)
        extra = {k: map_if_like(lift, v, structure) for k, v in extra.items()}
        matrices, links = run(
            lift(updates),
            state.links,
            None if params is None else lift(params),
            leaf_shapes=shapes,
            **extra,
        )

        def lower(tree: dict[str, jax.Array]) -> Any:
            def leaf(name: str, u: jax.Array) -> jax.Array:
                if name not in views:
                    return u
                parts = [tree[key] for key in _keys(name, views[name])]
                return views[name].join(parts, u.shape)

            return map_named(leaf, updates)

        if isinstance(matrices, Compressed):
            return Compressed(*map(lower, matrices)), OnMatricesState(links)
        return lower(matrices), OnMatricesState(links)

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
) -> optax.GradientTransformationExtraArgs:
    """One transform for the matrices of a tree, another for the rest.

    Args:
      matrix: for leaves that the layout calls matrices; None: the identity. Static.
      rest: for all others; None: the identity. Static.
      layout: which leaves are matrices; None: `flax()`. Static.
    State:
      matrix, rest: states of the two; leaves of the other group are `MaskedNode`s.
    Returns: a `GradientTransformationExtraArgs`. Extra arguments shaped like the
      updates are cut to each group; scalars and callables go to both as they are.
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
    groups = [
        optax.with_extra_args_support(optax.identity() if tx is None else tx)
        for tx in (matrix, rest)
    ]

    def cut(tree: Any, matrices: bool, views: dict[str, MatrixView]) -> Any:
        keep = lambda n, x: x if (n in views) == matrices else optax.MaskedNode()
        return map_named(keep, tree)

    def init(params: optax.Params) -> ByLayoutState:
        views = _views(params, layout)
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
        views = _views(updates, layout)
        structure = jax.tree.structure(updates)
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


def map_if_like(fn: Any, value: Any, structure: Any) -> Any:
    """fn(value) if value is a tree of the given structure, and not a bare leaf."""
    like = jax.tree.structure(value) == structure
    return fn(value) if like and not jax.tree_util.treedef_is_leaf(structure) else value


def _views(tree: Any, layout: Layout) -> dict[str, MatrixView]:
    """The view of each leaf that is a matrix, by name; checks every leaf."""
    views = {}
    for name, leaf in parameters(tree).items():
        view = layout(name, leaf)
        if view is not None:
            view.axes(leaf.shape, name)
            views[name] = view
    return views


def _keys(name: str, view: MatrixView) -> list[str]:
    """The names of a leaf's matrices."""
    return [f"{name}[{i}]" for i in range(len(view.blocks))] or [name]


def _split(tree: Any, views: dict[str, MatrixView]) -> dict[str, jax.Array]:
    """{matrix name: (*batch, rows, cols)} of the leaves that have a view."""
    return {
        key: part
        for name, leaf in named_leaves(tree).items()
        if name in views
        for key, part in zip(
            _keys(name, views[name]), views[name].split(leaf, name), strict=True
        )
    }
