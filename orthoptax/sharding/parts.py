# SPDX-License-Identifier: Apache-2.0
"""The place that leaves matrices where they are, for links that can sum over a mesh."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from orthoptax._check import message
from orthoptax._types import Compressed
from orthoptax.layout.links import Leaf, MatrixLinks, matrix_names
from orthoptax.matrix.part import Part
from orthoptax.sharding.context import by_name, context
from orthoptax.sharding.cuts import Cuts, spec_of
from orthoptax.sharding.device import tracked
from orthoptax.sharding.schedule import placed_state, state_cuts_of
from orthoptax.sharding.units import dtype_of

Leaves = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class InParts:
    """See `in_parts`."""

    specs: Any = None
    mesh: Any = None
    axes: tuple[str, ...] | None = None
    replicas: tuple[str, ...] = ()

    def whole(self, name: str, leaf: Any) -> Any:
        """Shape and dtype of the whole leaf."""
        where = context(self, {name: leaf})
        shape = where.whole_shape(name, leaf.shape)
        return jax.ShapeDtypeStruct(shape, dtype_of(leaf)) if where.manual else leaf

    def init(
        self, links: MatrixLinks, leaves: Leaves, about: Mapping[str, Leaf]
    ) -> Any:
        """The links' state, each part where the place will look for it."""
        if not leaves:
            return links.init(leaves, about)
        where = context(self, leaves)
        return placed_state(where, links, leaves, about)

    def update(
        self,
        links: MatrixLinks,
        leaves: Leaves,
        about: Mapping[str, Leaf],
        state: Any,
        params: Leaves | None,
        trees: Mapping[str, Leaves],
        extra: Mapping[str, Any],
    ) -> tuple[Any, Any]:
        """The links' update, on parts."""
        if not leaves:
            return links.update(leaves, about, state, params, trees, extra)
        _check_links(links, leaves)
        where = context(self, leaves)
        cuts = {n: where.cuts(n, leaf.shape) for n, leaf in about.items()}
        if self.replicas and not where.manual:
            raise ValueError(_outside(self.replicas))

        def body(leaves: Leaves, state: Any, params: Any, trees: Any) -> Any:
            scatter = not tracked(where.axes)
            parts = {
                key: part
                for name, leaf in about.items()
                for key, part in _parts(name, leaf, cuts[name], self.replicas, scatter)
            }
            given = {**extra, "parts": parts}
            result, after = links.update(leaves, about, state, params, trees, given)
            return (
                (*result, after) if isinstance(result, Compressed) else (result, after)
            )

        spec = {n: spec_of(c) for n, c in cuts.items()}
        by_path = state_cuts_of(where, links, leaves, about)
        states = jax.tree_util.tree_map_with_path(
            lambda path, _: spec_of(by_path.get(path, ())), state
        )
        like = lambda tree: None if tree is None else spec
        inputs = (spec, states, like(params), dict.fromkeys(trees, spec))
        twice = links.compresses
        outputs = (spec, spec, states) if twice else (spec, states)
        *results, after = where.run(body, inputs, outputs)(
            dict(leaves), state, params, dict(trees)
        )
        return (Compressed(*results) if twice else results[0]), after


def in_parts(
    specs: Any = None,
    *,
    mesh: Any = None,
    axes: Sequence[str] | None = None,
    replicas: Sequence[str] = (),
) -> InParts:
    """Leaves every matrix where it is and lets the links sum over the mesh.

    For links that can (`low_rank`, and what follows it in `dion`): products with a few
    columns are all that travels, so at a low rank less than a shard. The result is that
    of whole matrices, at any mesh.

    With `replicas`, gradients and momentum may differ along these mesh axes and stand
    for their mean: only the factors P and R are averaged, never a gradient. That needs
    an enclosing `shard_map` (or `pmap`) over these axes, in which each replica has its
    own gradient; see `per_replica` for its momentum and `synchronize` for checkpoints.

    Args:
      specs: as for `whole_matrices`. Static.
      mesh: as for `whole_matrices`. Static.
      axes: the mesh axes to use; None: all. Static.
      replicas: mesh axes to average over. Static.
    Returns: a `Place`.
    Raises: TypeError at the call for links that need whole matrices; ValueError for
      replicas outside `shard_map`, or a fused leaf whose rows are cut.
    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec
      >>> from orthoptax import dion
      >>> mesh = jax.make_mesh((1,), ("fsdp",), (jax.sharding.AxisType.Auto,))
      >>> params = {"dense": {"kernel": jnp.ones((4, 8))}}
      >>> place = in_parts({"dense": {"kernel": PartitionSpec("fsdp")}}, mesh=mesh)
      >>> tx = dion(0.01, rank_fraction=0.5, place=place)
      >>> updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Source: Ahn et al., Dion, arXiv:2504.05295, section 3; code microsoft/dion@0a059a4,
      dion.py.
    """
    named, found = by_name(specs)
    return InParts(
        named,
        found if mesh is None else mesh,
        None if axes is None else tuple(axes),
        tuple(replicas),
    )


def _parts(
    name: str, leaf: Leaf, cuts: Cuts, replicas: tuple[str, ...], scatter: bool
) -> list[tuple[str, Part]]:
    """How each matrix of a leaf lies: [(matrix name, part)]."""
    _, rows, cols = leaf.view.axes(leaf.shape)
    by_rows = tuple(n for a in rows for n in cuts[a])
    by_cols = tuple(n for a in cols for n in cuts[a])
    if leaf.view.blocks and by_rows:
        raise ValueError(
            message(
                "in_parts",
                f"the rows of {name!r} of shape {leaf.shape} hold several matrices and "
                f"are cut over {list(by_rows)}",
                "a fused leaf that is cut on its other axis",
                "Use whole_matrices, cut the other axis, or keep its matrices apart",
            )
        )
    shapes = leaf.view.shapes(leaf.shape)
    return [
        (key, Part((s[-2], s[-1]), by_rows, by_cols, replicas, scatter))
        for key, s in zip(matrix_names(name, leaf.view), shapes, strict=True)
    ]


def stays(
    links: MatrixLinks, about: Mapping[str, Leaf], cuts: Mapping[str, Cuts]
) -> bool:
    """Whether links measure matrices only, so that these can stay where they are."""
    if not links.measures:
        return False
    for name, leaf in about.items():
        rows = leaf.view.axes(leaf.shape)[1]
        if leaf.view.blocks and any(cuts[name][a] for a in rows):
            return False
    return True


def _check_links(links: MatrixLinks, leaves: Leaves) -> None:
    """Raises unless all links work on parts."""
    if not links.on_parts:
        raise TypeError(
            message(
                "in_parts",
                f"the links of {next(iter(leaves))!r} include one that needs whole "
                "matrices",
                "links that work on parts, as those of dion do",
                "Use orthoptax.sharding.whole_matrices",
            )
        )


def _outside(replicas: tuple[str, ...]) -> str:
    return message(
        "in_parts",
        f"replicas={replicas} under jit, where every gradient is one global array",
        "an enclosing shard_map or pmap over these axes, with a gradient a replica",
        "Average the gradient and leave replicas=(), or call update in a shard_map",
    )
