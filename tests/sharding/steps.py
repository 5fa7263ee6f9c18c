# SPDX-License-Identifier: Apache-2.0
"""Steps of an optimizer on one device and on eight, and how the eight are cut."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax import optimizers
from orthoptax.layout import here
from orthoptax.matrix import newton_schulz
from orthoptax.sharding import whole_matrices
from tests import zoo

RATE = 0.02
AXES = ("a", "b")
OVER_8 = ("a", "b")

jit = functools.partial(jax.jit, compiler_options=zoo.QUICKLY)
LAYER = {
    "attn": {"kernel": (16, 48)},
    "out": {"kernel": (16, 16)},
    "up": {"kernel": (16, 64)},
    "down": {"kernel": (64, 16)},
    "norm": {"scale": (16,)},
}
LAYERS = {f"layer_{i}": LAYER for i in range(3)}
"""Twelve matrices of four shapes on eight devices, so that owners' shares differ."""
PAIRS = {f"layer_{i}": {n: LAYER[n] for n in ("up", "down", "norm")} for i in range(3)}
"""Six of two shapes: quick to compile, and two devices have nothing to do."""


def _layer(wide: P, other: P) -> Any:
    """Specs of a layer: of kernels that widen and of the others."""
    chosen = {"attn": wide, "up": wide, "out": other, "down": other}
    return {n: {"kernel": s} for n, s in chosen.items()} | {"norm": {"scale": P()}}


MIXED = {  # one of each: replicated, cut by one axis, cut by both
    "attn": {"kernel": P()},
    "out": {"kernel": P("b")},
    "up": {"kernel": P("a", "b")},
    "down": {"kernel": P(None, "a")},
    "norm": {"scale": P("a")},
}
CUTS = {
    "fsdp": _layer(P(OVER_8), P(OVER_8)),
    "fsdp, turned": _layer(P(("b", "a")), P(("b", "a"))),
    "tp": _layer(P(None, OVER_8), P(OVER_8)),
    "fsdp x tp": _layer(P("a", "b"), P("b", "a")),
    "hsdp": _layer(P("b"), P("b")),
    "hsdp, other axis": _layer(P("a"), P(None, "a")),
    "replicated": _layer(P(), P()),
    "mixed": MIXED,
}
"""How a layer is cut, by the name of the scheme."""


def specs(scheme: str, shapes: Any = LAYERS) -> Any:
    """Specs of `LAYERS` or `PAIRS`."""
    return {
        name: {module: CUTS[scheme][module] for module in layer}
        for name, layer in shapes.items()
    }


def mesh(kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    """Four times two devices."""
    return jax.make_mesh((4, 2), AXES, axis_types=(kind,) * 2)


def shardings(mesh: Any, specs: Any) -> Any:
    """Specs on a mesh."""
    return jax.tree.map(lambda s: NamedSharding(mesh, s), specs)


def gradients(shapes: Any, dtype: Any = float, steps: int = 2) -> list[Any]:
    """One tree a step."""
    return [zoo.tree(seed, shapes, dtype) for seed in range(1, steps + 1)]


def take(
    tx: Any, params: Any, grads: Any, *, wrap: Any = lambda fn: fn, start: Any = None
) -> tuple[list[Any], Any]:
    """Steps of an optimizer, parameters moving along.

    Args:
      tx: the optimizer.
      params, grads: where they are to be; one tree of gradients a step.
      wrap: what the step is made into before it is compiled.
      start: the first state; None: that of `tx.init`.
    Returns: (the updates of every step, the last state).
    """

    def step(grads: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return updates, state, optax.apply_updates(params, updates)

    compiled = jit(wrap(step))
    state = tx.init(params) if start is None else start
    every = []
    for each in grads:
        updates, state, params = compiled(each, state, params)
        every.append(updates)
    return every, state


def spread(state: Any, mesh: Any) -> Any:
    """A new state with its counts on all devices: there a step leaves them."""
    alone = lambda x: not isinstance(x.sharding, NamedSharding)
    whole = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.device_put(x, whole) if alone(x) else x, state)


def frozen(shapes: Any) -> Any:
    """Shapes by name, hashable."""
    flat = jax.tree_util.tree_flatten_with_path(
        shapes, is_leaf=lambda x: isinstance(x, tuple)
    )[0]
    return tuple((jax.tree_util.keystr(path), shape) for path, shape in flat)


_LOCAL: dict[Any, Any] = {}


def made(name: str, **arguments: Any) -> Any:
    """The optimizer; Muon and NorMuon with the classic kernel, if no other is given.

    It amplifies rounding least: `auto` may work on Gram matrices, whose rounding
    reaches small singular values. That one is compared in float64, and in the test of
    every optimizer.
    """
    own = {"polar": newton_schulz()} if name in ("muon", "normuon") else {}
    return getattr(optimizers, name)(RATE, **{**own, **arguments})


def local(name: str, shapes: Any, dtype: Any = float, **arguments: Any) -> Any:
    """(updates, state) of two steps on one device, worked out once."""
    dtype = jnp.result_type(dtype)
    key = (name, frozen(shapes), dtype.name, repr(sorted(arguments.items())))
    if key not in _LOCAL:
        tx = made(name, place=here, **arguments)
        params = zoo.tree(0, shapes, dtype)
        _LOCAL[key] = jax.device_get(take(tx, params, gradients(shapes, dtype)))
    return _LOCAL[key]


def sharded(
    name: str,
    shapes: Any,
    specs: Any,
    dtype: Any = float,
    *,
    explicit: bool = False,
    arguments: Any = None,
    **about_place: Any,
) -> Any:
    """The same on eight devices under jit: (updates, state, shardings of parameters).

    On Explicit axes without a place.
    """
    where = mesh(AxisType.Explicit if explicit else AxisType.Auto)
    cut = shardings(where, specs)
    place = None if explicit else whole_matrices(specs, mesh=where, **about_place)
    tx = made(name, place=place, **(arguments or {}))
    params = jax.device_put(zoo.tree(0, shapes, dtype), cut)
    grads = [jax.device_put(g, cut) for g in gradients(shapes, dtype)]
    updates, state = take(tx, params, grads, start=spread(tx.init(params), where))
    return updates, state, cut


def inside(
    name: str,
    shapes: Any,
    specs: Any,
    *,
    check_vma: bool,
    axes: Sequence[str] = AXES,
    arguments: Any = None,
) -> Any:
    """The same inside a shard_map over some axes: (updates, state)."""
    where = mesh()
    params = zoo.tree(0, shapes)
    # The state is cut as jit leaves it, which other tests look at.
    own = arguments or {}
    outside = made(name, place=whole_matrices(specs, mesh=where), **own)
    first = outside.init(jax.device_put(params, shardings(where, specs)))
    kept = jax.tree.map(lambda x: getattr(x.sharding, "spec", P()), first)
    mapped = lambda fn, into, out: jax.shard_map(
        fn,
        mesh=where,
        in_specs=into,
        out_specs=out,
        axis_names=set(axes),
        check_vma=check_vma,
    )
    tx = made(name, place=whole_matrices(specs), **own)
    return take(
        tx,
        params,
        gradients(shapes),
        wrap=lambda fn: mapped(fn, (specs, kept, specs), (specs, kept, specs)),
        start=jit(mapped(tx.init, (specs,), kept))(params),
    )


def assert_equal(ours: Any, theirs: Any, tolerance: float | None = None) -> None:
    """Every step's updates and the state equal, wherever they are."""
    zoo.assert_close(jax.device_get(ours[0]), theirs[0], tolerance)
    zoo.assert_close(jax.device_get(ours[1]), theirs[1], tolerance)


def assert_cut(tree: Any, cut: Any) -> None:
    """Leaves lie on the devices as told."""
    for name, x, want in zip(
        zoo.names(tree), jax.tree.leaves(tree), jax.tree.leaves(cut), strict=True
    ):
        assert x.sharding.is_equivalent_to(want, x.ndim), (name, x.sharding, want)
