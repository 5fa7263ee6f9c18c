# SPDX-License-Identifier: Apache-2.0
"""Mapped axes: over which an array differs, made to differ, averaged over."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax import lax

Axes = str | Sequence[str] | None
"""The name or names of mapped axes; None: none."""


def varying(x: Any) -> frozenset[str]:
    """The manual mesh axes over which `shard_map` knows an array to differ."""
    kind = jax.typeof(x)
    new = getattr(kind, "manual_axis_type", None)  # its name since jax 0.10; then older
    return frozenset(getattr(kind, "vma", ()) if new is None else new.varying)


def names_of(axes: Axes) -> tuple[str, ...]:
    """Axes as a tuple of names."""
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) else tuple(axes)


def tracked(axes: Iterable[str]) -> tuple[str, ...]:
    """Those axes of which `shard_map` keeps track, as it does with check_vma=True."""
    return tuple(name for name in axes if name in varying(lax.axis_index(name)))


def as_varying(tree: Any, axes: Iterable[str]) -> Any:
    """The same arrays, to `shard_map` different on every device of the axes.

    Differentiating by what is the same on all devices sums over them; by what differs
    it does not.
    """
    axes = tuple(axes)

    def leaf(x: Any) -> Any:
        new = tuple(name for name in axes if name not in varying(x))
        return lax.pcast(x, new, to="varying") if new else x

    return jax.tree.map(leaf, tree)


def mean_over(tree: Any, axes: Axes) -> Any:
    """The mean of each array over mapped axes; the tree itself without axes."""
    names = names_of(axes)
    if not names:
        return tree
    return lax.pmean(as_varying(tree, tracked(names)), names)
