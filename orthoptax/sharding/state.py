# SPDX-License-Identifier: Apache-2.0
"""Where the state of an optimizer lies, and momentum that differs by replica."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jax.tree_util import DictKey, GetAttrKey

from orthoptax._types import Layout
from orthoptax.layout.leaves import parameters
from orthoptax.layout.links import Leaf, matrix_names
from orthoptax.layout.tables import flax
from orthoptax.sharding.context import by_name
from orthoptax.sharding.cuts import Cuts, cuts_of, spec_of, state_cuts
from orthoptax.sharding.units import Path, is_basis


def state_specs(
    tx: optax.GradientTransformation,
    params: Any,
    specs: Any,
    *,
    mesh: Any,
    layout: Layout | None = None,
    replicas: Sequence[str] = (),
) -> Any:
    """PartitionSpecs of an optimizer's state, for `out_shardings` and restoring.

    What has a parameter's shape lies as the parameter does; a number a row of a matrix
    as its rows, where their size divides; everything else is whole everywhere.

    Args:
      tx: any optimizer, ours or not.
      params: the parameters, or their shapes.
      specs: tree of PartitionSpec or NamedSharding of the parameters; None: whole.
      mesh: a mesh, or {axis name: size}.
      layout: which leaves are which matrices, as `tx` was told; None: `flax()`.
      replicas: the mesh axes of `per_replica`, if `tx` is wrapped in it.
    Returns: a tree of PartitionSpec of the structure of `tx.init(params)`.
    Raises: ValueError for specs that do not fit the parameters or the mesh.
    Example:
      >>> from orthoptax import muon
      >>> params = {"dense": {"kernel": jnp.ones((4, 8))}}
      >>> specs = {"dense": {"kernel": PartitionSpec("fsdp")}}
      >>> found = state_specs(muon(0.02), params, specs, mesh={"fsdp": 2})
      >>> tuple(optax.tree.get(found, "momentum")["dense"]["kernel"])
      ('fsdp',)

    Source: ours.
    """
    layout = flax() if layout is None else layout
    sizes = dict(getattr(mesh, "shape", mesh))
    named = by_name(specs)[0] or {}
    shapes = jax.eval_shape(lambda p: p, params)
    leaves = parameters(shapes, "state_specs")
    cuts = {n: cuts_of(named.get(n), x.shape, sizes, n) for n, x in leaves.items()}
    about = {
        n: Leaf(view, x.shape)
        for n, x in leaves.items()
        if (view := layout(n, x)) is not None
    }
    owners = {m: n for n, leaf in about.items() for m in matrix_names(n, leaf.view)}
    paths = {
        path: name
        for (path, _), name in zip(
            jax.tree_util.tree_flatten_with_path(shapes)[0], leaves, strict=True
        )
    }

    def spec(path: Path, x: Any) -> PartitionSpec:
        lead = replicas if _replicated(path) else ()
        shape = x.shape[1:] if lead else x.shape
        matrix = [p.key for p in path if isinstance(p, DictKey) and p.key in owners]
        found: Cuts = ()
        for start in range(len(path)):
            name = paths.get(path[start:])
            if name is not None and leaves[name].shape == shape:
                found = cuts[name]
                break
        else:
            if matrix:
                name = owners[matrix[-1]]
                found = _of_matrix(matrix[-1], name, shape, about, cuts, sizes, path)
        return spec_of((tuple(lead), *found) if lead else found)

    types = (AxisType.Auto,) * len(sizes)
    around = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types)
    with jax.sharding.use_abstract_mesh(around):  # for a place that was told no mesh
        state = jax.eval_shape(tx.init, shapes)
    return jax.tree_util.tree_map_with_path(spec, state)


def _of_matrix(
    matrix: str,
    name: str,
    shape: tuple[int, ...],
    about: Mapping[str, Leaf],
    cuts: Mapping[str, Cuts],
    sizes: Mapping[str, int],
    path: Path,
) -> Cuts:
    """The cuts of the state of one matrix of a leaf."""
    leaf = about[name]
    block = matrix_names(name, leaf.view).index(matrix)
    whole = leaf.view.shapes(leaf.shape)[block]
    return state_cuts(shape, whole, leaf, cuts[name], sizes, is_basis(path))


def per_replica(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Gives the momentum an axis in front, one entry a replica.

    For `in_parts(replicas=...)` inside `shard_map`: there each replica has a momentum
    of its own, of shape (1, ...), which is (replicas, ...) outside, where the spec of
    that axis is the replicas' mesh axis (`state_specs(replicas=...)`).

    Args:
      tx: an optimizer whose momentum differs by replica. Static.
    State: that of `tx`; fields called `momentum` have one axis more.
    Returns: a `GradientTransformationExtraArgs`.
    Example:
      >>> from orthoptax import dion
      >>> state = per_replica(dion(0.01)).init({"dense": {"kernel": jnp.ones((4, 8))}})
      >>> optax.tree.get(state, "momentum")["dense"]["kernel"].shape
      (1, 4, 8)

    Source: Ahn et al., Dion, arXiv:2504.05295, section 3.3 (decoupled momentum).
    """
    tx = optax.with_extra_args_support(tx)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        own = _map_momentum(lambda m: m[0], state)
        updates, own = tx.update(updates, own, params, **extra)
        return updates, _map_momentum(lambda m: m[None], own)

    return optax.GradientTransformationExtraArgs(
        lambda params: _map_momentum(lambda m: m[None], tx.init(params)), update
    )


def synchronize(state: Any, replicas: int | None = None) -> Any:
    """Every replica's momentum becomes their mean, which is all that it stands for.

    Before a checkpoint, which then is the same from every replica, and whenever the
    number of replicas changes. It does not change the trajectory beyond rounding.

    Args:
      state: of `per_replica(...)`, global arrays: outside `shard_map`.
      replicas: how many there are to be; None: as many as there are.
    Returns: the state.
    Example:
      >>> from orthoptax import dion
      >>> state = per_replica(dion(0.01)).init({"dense": {"kernel": jnp.ones((4, 8))}})
      >>> optax.tree.get(synchronize(state, 2), "momentum")["dense"]["kernel"].shape
      (2, 4, 8)

    Source: code microsoft/dion@0a059a4, dion.py, `synchronize_for_checkpoint`.
    """

    def mean(m: jax.Array) -> jax.Array:
        count = m.shape[0] if replicas is None else replicas
        one = jnp.mean(m, axis=0, keepdims=True, dtype=None).astype(m.dtype)
        return jnp.broadcast_to(one, (count, *m.shape[1:]))

    return _map_momentum(mean, state)


def average(axes: str | Sequence[str]) -> optax.GradientTransformation:
    """The mean of the updates over mesh axes, for leaves whose gradient is not reduced.

    Beside `in_parts(replicas=...)` the leaves that are no matrices still need the mean
    of their gradient: `rest=optax.chain(average("dp"), optax.adamw(1e-3))`.

    Args:
      axes: mesh axes of the enclosing `shard_map` or `pmap`. Static.
    State: none.
    Returns: a `GradientTransformation`.
    Example:
      >>> tx = average("dp")
      >>> mean = lambda g: tx.update(g, optax.EmptyState())[0]
      >>> jax.vmap(mean, axis_name="dp")(jnp.asarray([1.0, 3.0])).tolist()
      [2.0, 2.0]

    Source: ours.
    """

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        del params
        return lax.pmean(updates, axes), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _replicated(path: Path) -> bool:
    """Whether a state is momentum, by its field's name."""
    return any(isinstance(p, GetAttrKey) and p.name == "momentum" for p in path)


def _map_momentum(fn: Callable[[jax.Array], jax.Array], state: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, x: fn(x) if _replicated(path) else x, state
    )
