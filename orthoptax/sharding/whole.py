# SPDX-License-Identifier: Apache-2.0
"""The place that puts matrices together: one exchange there, one back."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from orthoptax._check import count, message
from orthoptax._types import Compressed
from orthoptax.layout.links import Leaf, MatrixLinks
from orthoptax.sharding.context import Context, by_name, context
from orthoptax.sharding.cuts import spec_of
from orthoptax.sharding.device import perform_all
from orthoptax.sharding.parts import InParts, stays
from orthoptax.sharding.schedule import Request, Schedule, placed_state, schedule
from orthoptax.sharding.work import Work

Leaves = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class WholeMatrices:
    """See `whole_matrices`."""

    specs: Any = None
    mesh: Any = None
    axes: tuple[str, ...] | None = None
    transport: Any = None
    team: int = 1

    def whole(self, name: str, leaf: Any) -> Any:
        """Shape and dtype of the whole leaf."""
        if name not in (self.specs or {}):
            return leaf  # no matrix, replicated, or missed when a matrix is asked for
        where = context(self, {name: leaf})
        if not where.manual:
            return leaf
        shape = where.whole_shape(name, leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    def init(
        self, links: MatrixLinks, leaves: Leaves, about: Mapping[str, Leaf]
    ) -> Any:
        """The links' state, each part where the place will look for it."""
        if not leaves:
            return links.init(leaves, about)
        return placed_state(context(self, leaves), links, leaves, about)

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
        """The links' update, on whole matrices."""
        if not leaves:
            return links.update(leaves, about, state, params, trees, extra)
        where = context(self, leaves)
        cuts = {n: where.cuts(n, leaf.shape) for n, leaf in about.items()}
        if stays(links, about, cuts):
            place = InParts(self.specs, self.mesh, self.axes)
            return place.update(links, leaves, about, state, params, trees, extra)
        given = {} if params is None else {"params": params}
        given |= {f"tree/{key}": tree for key, tree in trees.items()}
        self._check_team(links, leaves)
        request = self._request(where, links, about, {"updates": leaves, **given})
        plan = schedule(request._replace(extra=extra))
        by_path = dict(jax.tree_util.tree_flatten_with_path(state)[0])
        arrays = {("updates", n): x for n, x in leaves.items()}
        arrays |= {(k, n): given[k][n] for k in sorted(plan.read) for n in leaves}
        arrays |= {
            (key, n): by_path[path]
            for n, own in plan.state.items()
            for key, path in own.items()
        }
        order = list(arrays)
        work = lambda common: Work(links, common, extra, frozenset(given))

        def body(parts: list[jax.Array], common: list[jax.Array]) -> Any:
            given = dict(zip(order, parts, strict=True))
            run = work(dict(zip(plan.common, common, strict=True)))
            done, after = perform_all(plan.exchanges, run, given)
            return [done[key] for key in outs], [after[path] for path in plan.common]

        outs = [
            (f.key, x.name)
            for e in plan.exchanges
            for x in e.leaves
            for f in x.kind.outputs
        ]
        spec = lambda keys: [spec_of(plan.cuts[name, key]) for key, name in keys]
        common = [by_path[path] for path in plan.common]
        whole = [PartitionSpec() for _ in common]
        parts, after = where.run(body, (spec(order), whole), (spec(outs), whole))(
            [arrays[k] for k in order], common
        )
        return self._sort(plan, state, dict(zip(outs, parts, strict=True)), after)

    def _request(
        self,
        where: Context,
        links: MatrixLinks,
        about: Mapping[str, Leaf],
        trees: Mapping[str, Leaves],
    ) -> Request:
        """The question that a schedule answers."""
        return Request(
            links,
            about,
            {k: {n: jnp.dtype(t[n].dtype) for n in about} for k, t in trees.items()},
            {n: where.cuts(n, leaf.shape) for n, leaf in about.items()},
            where.sizes,
            where.axes,
            None if self.transport is None else jnp.dtype(self.transport),
            team=self.team,
        )

    def _check_team(self, links: MatrixLinks, leaves: Leaves) -> None:
        """Raises unless the links can work in teams, if they are to."""
        if self.team == 1 or (links.on_parts and not links.compresses):
            return
        remedy = (
            "Use orthoptax.sharding.in_parts, which leaves matrices where they are"
            if links.compresses
            else "Pass polar=orthoptax.matrix.gram_newton_schulz(), or leave team=1"
        )
        raise TypeError(
            message(
                "whole_matrices",
                f"team={self.team}, but the links of {next(iter(leaves))!r} include "
                "one that cannot work on a fraction of a matrix",
                "links that sum over the long side of a matrix, such as orthogonalize "
                "with a polar function that takes inner=",
                remedy,
            )
        )

    def _sort(
        self, plan: Schedule, state: Any, parts: Mapping[Any, Any], after: list[Any]
    ) -> tuple[Any, Any]:
        """(leaves or `Compressed` of two, new state) of the parts that came back."""
        known = dict(zip(plan.common, after, strict=True))
        for name, own in plan.state.items():
            known |= {path: parts[key, name] for key, path in own.items()}
        paths, treedef = jax.tree_util.tree_flatten_with_path(state)
        new = jax.tree.unflatten(treedef, [known[path] for path, _ in paths])
        pick = lambda key: {n: x for (k, n), x in parts.items() if k == key}
        if any(key == "kept" for key, _ in parts):
            return Compressed(pick("out"), pick("kept")), new
        return pick("updates"), new


def whole_matrices(
    specs: Any = None,
    *,
    mesh: Any = None,
    axes: Sequence[str] | None = None,
    transport: DTypeLike | None = None,
    team: int = 1,
) -> WholeMatrices:
    """Puts every matrix together on one device, works there, and sends it back.

    All matrices of the tree are shared out over the devices, so that work and bytes are
    even; an all-to-all over all mesh axes that cut them brings each to its owner, with
    its state of a number a row or a matrix, and another brings the results back. All
    links run on whole matrices: norms, row statistics and quantiles are exact and need
    no further communication. Matrices that are whole everywhere (replicated
    parameters) are shared out and the results all-gathered; stacks cut on their batch
    axes alone (layers, experts) stay where they are.

    Matrices that do not go evenly, 12 over 8 devices or one over all, cost as much as
    if there were 16 or are gathered. With `team` each of these is worked on by so many
    devices, which have equal fractions of its long side and sum what is to be summed:
    of the Gram form two triangles of the short side squared, where it has one restart.
    Later links see fractions too. A leaf whose long side is no multiple of the team on
    each device, or that fuses tall matrices, stays with the others.

    Args:
      specs: a tree of PartitionSpec or NamedSharding, those of the parameters; leaves
        that are no matrices may be left out, None is replicated. None: read from the
        arrays, which shows on Explicit mesh axes alone. Static.
      mesh: of the specs; None: that of the NamedShardings, of the arrays, or the one
        that is set. Inside `shard_map` and `pmap` not used. Static.
      axes: the mesh axes to use, all that cut a matrix among them; None: all. Axes that
        do not cut a matrix share the work on it. Static.
      transport: what updates are rounded to while they travel, for example bfloat16;
        states are not rounded. None: their own dtype. Static.
      team: devices, next to each other, that work together on a matrix that does not go
        evenly; divides the number of devices. For links that can sum over the long
        side: `polar=gram_newton_schulz()` moves least. 1: none do. Static.
    Returns: a `Place`, for `place=` of `on_matrices` and every named optimizer. Works
      inside your own `shard_map` over all axes that cut a matrix or, from jax 0.10 on,
      over none of them.
    Raises: TypeError for a spec of another type, at the call for links that cannot work
      in teams; ValueError for a team below 1, at the call for specs that do not fit
      the leaves, the mesh, or what the arrays show, for a team that does not divide the
      devices or stands inside a `shard_map` with check_vma=True.
    Example:
      >>> import jax, optax
      >>> from jax.sharding import PartitionSpec
      >>> from orthoptax import muon
      >>> mesh = jax.make_mesh((1,), ("fsdp",), (jax.sharding.AxisType.Auto,))
      >>> params = {"dense": {"kernel": jnp.ones((4, 8))}}
      >>> specs = {"dense": {"kernel": PartitionSpec("fsdp")}}
      >>> tx = muon(0.02, place=whole_matrices(specs, mesh=mesh))
      >>> updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Source: ours; the exchange of one shape at a time is microsoft/dion@0a059a4,
      megabatch_base.py.
    """
    count("whole_matrices", "team", team)
    named, found = by_name(specs)
    return WholeMatrices(
        named,
        found if mesh is None else mesh,
        None if axes is None else tuple(axes),
        transport,
        team,
    )
