# SPDX-License-Identifier: Apache-2.0
"""Where an update runs: under jit on a mesh, or inside `shard_map` or `pmap`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import core, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from orthoptax._check import message
from orthoptax.layout.names import leaf_name
from orthoptax.sharding.cuts import Cuts, cuts_of, parts_of, said, spec_of


@dataclasses.dataclass(frozen=True)
class Context:
    """A mesh, how the leaves lie on it, and whether one device's code runs already.

    sizes: of every mesh axis, in the mesh's order. axes: those that may be used.
    specs: {leaf name: PartitionSpec}; empty where all is replicated. manual: inside
    `shard_map` or `pmap` over `axes`: arrays are parts. mesh: for our own `shard_map`.
    explicit: axes are Explicit, so that arrays carry their specs.
    """

    sizes: Mapping[str, int]
    axes: tuple[str, ...]
    specs: Mapping[str, Any]
    manual: bool
    mesh: Any
    explicit: bool

    def cuts(self, name: str, shape: Sequence[int]) -> Cuts:
        """The cuts of a whole leaf of this shape."""
        return cuts_of(self.specs.get(name), shape, self.sizes, name)

    def whole_shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """The whole shape of a leaf, from that of its part here."""
        if not self.manual:
            return tuple(shape)
        any_size = [0] * len(shape)  # nothing to divide yet
        cuts = cuts_of(self.specs.get(name), any_size, self.sizes, name)
        return tuple(
            n * parts_of(c, self.sizes) for n, c in zip(shape, cuts, strict=True)
        )

    def run(self, body: Callable[..., Any], specs: Any, out_specs: Any) -> Any:
        """The body on every device's parts, made ready to be called."""
        if self.manual:
            return body
        return jax.shard_map(
            body,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=out_specs,
            axis_names=set(self.axes),
            check_vma=False,
        )

    def put(self, x: jax.Array, cuts: Cuts | None) -> jax.Array:
        """A new whole array cut as told; None: left alone."""
        if cuts is None:
            return x
        if self.manual:
            for axis, names in enumerate(cuts):
                if names:
                    size = x.shape[axis] // parts_of(names, self.sizes)
                    start = lax.axis_index(names) * size
                    x = lax.dynamic_slice_in_dim(x, start, size, axis)
            return x
        if self.mesh is None or not any(cuts):
            return x
        sharding = NamedSharding(self.mesh, spec_of(cuts))
        if self.explicit:
            return jax.sharding.reshard(x, sharding)
        return lax.with_sharding_constraint(x, sharding)


def context(place: Any, leaves: Mapping[str, Any]) -> Context:
    """Finds out where some leaves are.

    Args:
      place: with `specs` ({leaf name: PartitionSpec}, or None), `mesh` and `axes`.
      leaves: {name: array}.
    Raises: ValueError where their specs cannot be seen and were not given, where a leaf
      has none, or where what was given and what is seen differ.
    """
    around = jax.sharding.get_abstract_mesh()
    inside = () if around.empty else tuple(around.manual_axes)
    if not inside and place.axes and _bound(place.axes):
        inside = tuple(place.axes)  # pmap before jax 0.10, or vmap with a name
    if inside:
        named = _mentioned(place, leaves)
        if not named or named & set(inside):
            return _manual(place, leaves, inside, named)
    return _automatic(place, leaves, around, inside)


def _bound(axes: Sequence[str]) -> bool:
    """Whether these are names of axes that code runs over here."""
    try:
        return all(lax.axis_size(name) for name in axes)
    except NameError:
        return False


def _mentioned(place: Any, leaves: Mapping[str, Any]) -> set[str]:
    """The mesh axes that the specs of some leaves name."""
    named: set[str] = set()
    for name in leaves:
        for entry in (place.specs or {}).get(name) or ():
            named |= {entry} if isinstance(entry, str) else set(entry or ())
    return named


def _manual(
    place: Any, leaves: Mapping[str, Any], inside: tuple[str, ...], named: set[str]
) -> Context:
    """Inside the caller's `shard_map` or `pmap`: our code runs as it is."""
    if place.specs is None and place.axes is None:
        raise ValueError(
            message(
                "whole_matrices",
                f"{next(iter(leaves), 'the tree')!r} is updated inside shard_map or "
                f"pmap over {list(inside)}, where arrays do not show how they are cut",
                "the specs of the parameters, or axes= if they are replicated",
                "Pass specs=, the tree of PartitionSpecs you gave shard_map",
            )
        )
    axes = inside if place.axes is None else place.axes
    missing = sorted((named | set(axes)) - set(inside))
    if missing:
        raise ValueError(
            message(
                "whole_matrices",
                f"the mesh axes {missing} are not among those of the enclosing "
                f"shard_map or pmap, {list(inside)}",
                "all axes that cut matrices inside it, or none of them",
                "Add them to its axis_names, or name others in axes=",
            )
        )
    if place.specs is not None:
        _check_named(leaves, place.specs)
    sizes = {n: lax.axis_size(n) for n in inside}
    axes = tuple(n for n in sizes if n in axes)
    return Context(sizes, axes, place.specs or {}, True, None, False)


def _automatic(
    place: Any, leaves: Mapping[str, Any], around: Any, inside: tuple[str, ...]
) -> Context:
    """Under jit, or outside of everything: our own `shard_map` is to come."""
    seen = {n: s for n, x in leaves.items() if (s := seen_sharding(x)) is not None}
    if place.specs is None and len(seen) < len(leaves):
        blind = next(n for n in leaves if n not in seen)
        raise ValueError(
            message(
                "whole_matrices",
                f"how {blind!r} is cut does not show: its mesh axes are not Explicit",
                "specs in parameter coordinates",
                "Pass specs=, a tree of PartitionSpec or NamedSharding, and mesh=",
            )
        )
    mesh = _mesh(place, leaves, around)
    sizes = dict(mesh.shape)
    if place.specs is not None:
        _check_named(leaves, place.specs)
        _compare(place.specs, leaves, sizes)
    specs = {n: s.spec for n, s in seen.items()} if place.specs is None else place.specs
    unknown = sorted(set(place.axes or ()) - set(sizes))
    if unknown:
        raise ValueError(
            message(
                "whole_matrices",
                f"the mesh has no axes {unknown}",
                f"some of {list(sizes)}",
                "Correct axes=",
            )
        )
    axes = tuple(sizes) if place.axes is None else place.axes
    axes = tuple(n for n in sizes if n in axes and n not in inside)
    return Context(sizes, axes, specs, False, mesh, bool(seen))


def seen_sharding(x: Any) -> NamedSharding | None:
    """The sharding of an array that is on Explicit mesh axes, else None."""
    sharding = getattr(jax.typeof(x), "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.empty:
        return None
    types = set(sharding.mesh.axis_types)
    return sharding if AxisType.Explicit in types else None


def _mesh(place: Any, leaves: Mapping[str, Any], around: Any) -> Any:
    """The mesh: inside another `shard_map` its own, else given, seen or set."""
    if not around.empty and around.manual_axes:
        return around
    if place.mesh is not None:
        return place.mesh
    for x in leaves.values():
        concrete = None if isinstance(x, core.Tracer) else getattr(x, "sharding", None)
        if isinstance(concrete, NamedSharding):
            return concrete.mesh
        if (sharding := seen_sharding(x)) is not None:
            return sharding.mesh
    if not around.empty:
        return around
    raise ValueError(
        message(
            "whole_matrices",
            "no mesh",
            "one given, in NamedShardings or set",
            "Pass mesh=, or call under jax.set_mesh(mesh)",
        )
    )


def _check_named(leaves: Mapping[str, Any], specs: Mapping[str, Any]) -> None:
    """Raises unless every leaf has a spec."""
    missing = [n for n in leaves if n not in specs]
    if missing:
        raise ValueError(
            message(
                "whole_matrices",
                f"no spec for {missing[0]!r} ({len(missing)} leaves in all); there are "
                f"specs for {', '.join(map(repr, list(specs)[:4]))}, ...",
                "a spec for every matrix, by the name of its leaf; None: replicated",
                "Pass specs of the tree that the optimizer is given",
            )
        )


def _compare(
    specs: Mapping[str, Any], leaves: Mapping[str, Any], sizes: Mapping[str, int]
) -> None:
    """Raises if a leaf shows a sharding other than was said."""
    for name, x in leaves.items():
        seen = seen_sharding(x)
        if seen is None and not isinstance(x, core.Tracer):
            concrete = getattr(x, "sharding", None)
            seen = concrete if isinstance(concrete, NamedSharding) else None
        if seen is None or dict(seen.mesh.shape) != dict(sizes):
            continue
        cuts = cuts_of(specs[name], x.shape, sizes, name)
        if cuts_of(seen.spec, x.shape, sizes, name) != cuts:
            raise ValueError(
                message(
                    "whole_matrices",
                    f"{name!r} of shape {tuple(x.shape)} lies as {said(seen.spec)}, "
                    f"but specs say {said(spec_of(cuts))}",
                    "the sharding that the array has",
                    "Correct the spec, or put the array on the devices as it says",
                )
            )


def by_name(specs: Any) -> tuple[dict[str, Any] | None, Any]:
    """({leaf name: PartitionSpec or None}, the mesh of the first NamedSharding)."""
    if specs is None:
        return None, None
    flat = jax.tree_util.tree_flatten_with_path(specs, is_leaf=lambda x: x is None)[0]
    found: dict[str, Any] = {}
    mesh = None
    for path, spec in flat:
        if isinstance(spec, NamedSharding):
            mesh = spec.mesh if mesh is None else mesh
            spec = spec.spec
        if not (spec is None or isinstance(spec, PartitionSpec)):
            raise TypeError(
                message(
                    "whole_matrices",
                    f"the spec of {leaf_name(path)!r} is a {type(spec).__name__}",
                    "a PartitionSpec, a NamedSharding, or None for replicated",
                    "Pass for example jax.sharding.PartitionSpec('fsdp', None)",
                )
            )
        found[leaf_name(path)] = spec
    return found, mesh
