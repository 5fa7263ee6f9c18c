# SPDX-License-Identifier: Apache-2.0
"""Links run on the rows (or columns) that matter most: Dion2's compressor."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import DictKey

from orthoptax import _check
from orthoptax._dtypes import work_dtype
from orthoptax._types import Compressed, Compressor, matrix_link
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.layout.wrap import map_if_like
from orthoptax.transforms.choices import Choose, largest_slices

Chosen = tuple[int, jax.Array]
"""An axis, counted from the first, and the indices (..., k) chosen along it."""


ORDERED: Any = {"unique_indices": True, "indices_are_sorted": True}


class SubmatrixState(NamedTuple):
    """State of `submatrix`.

    count: int32, completed updates. links: the links' states, of the whole matrices.
    """

    count: jax.Array
    links: Any


@matrix_link
def submatrix(
    *links: optax.GradientTransformation,
    fraction: float | None = None,
    axis: int | None = None,
    choose: Choose | None = None,
) -> Compressor:
    """Runs links on a fraction of each matrix's rows or columns.

    What is not chosen waits in the momentum of `error_feedback`, undecayed, until its
    entries have grown.

        k <- max(1, ceil(fraction size)) slices of the largest sum of |entries|
        S <- B[chosen]
        out[chosen] = links(S),  kept[chosen] = S,  both zero elsewhere

    Args:
      *links: matrix transforms; none means the identity. A state with one entry a row
        takes part for the chosen rows only. Static.
      fraction: of the slices, in (0, 1]; None: 0.25. Static.
      axis: -2 chooses rows, -1 columns; None: whichever are fewer, rows if equal.
        Static.
      choose: which slices, see `Choose`; None: `largest_slices`. Static.
    State:
      count: int32 scalar, number of completed updates.
      links: the links' states.
    Returns: a `Compressor`, for `error_feedback(b1, on_matrices(submatrix(...)))`.
      A slice that holds NaN is chosen first, so that it shows.
    Raises: ValueError for a fraction outside (0, 1], another axis, in `init` a leaf
      with fewer than two axes, in `update` a state with two axes of that many entries;
      TypeError for a traced fraction.
    Example:
      >>> b = {"w": jnp.asarray([[1.0], [-3.0]])}
      >>> tx = submatrix(optax.scale(2.0), axis=-2)
      >>> pair, _ = tx.update(b, tx.init(b))
      >>> pair.out["w"].tolist(), pair.kept["w"].tolist()
      ([[0.0], [-6.0]], [[0.0], [-3.0]])

    Source: Ahn et al., Dion2, arXiv:2512.16928; code microsoft/dion@0a059a4, dion2.py,
      nordion2.py (rows always).
    """
    fraction = 0.25 if fraction is None else fraction
    _check.fraction("submatrix", "fraction", fraction)
    if axis not in (None, -2, -1):
        raise ValueError(
            _check.message(
                "submatrix",
                f"axis={axis} is out of range",
                "-2 (rows), -1 (columns) or None (the shorter)",
                "Change axis",
            )
        )
    choose = largest_slices if choose is None else choose
    _check.is_callable("submatrix", "choose", choose, "largest_slices")
    chain = optax.chain(*links) if links else optax.identity()
    chain = optax.with_extra_args_support(chain)

    def init(params: optax.Params) -> SubmatrixState:
        for name, leaf in named_leaves(params).items():
            _check.is_matrix("submatrix", name, leaf.shape)
        return SubmatrixState(jnp.zeros((), jnp.int32), chain.init(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[Compressed, SubmatrixState]:
        chosen = {
            name: _pick(name, u, fraction, axis, choose, state.count)
            for name, u in named_leaves(updates).items()
        }
        cut = lambda tree: map_named(lambda n, x: _take(x, chosen[n]), tree)
        structure, parts = jax.tree.structure(updates), cut(updates)
        axes = _state_axes(chain.init, updates, parts)
        results, inner = chain.update(
            parts,
            _map_state(_take, axes, chosen, state.links),
            None if params is None else cut(params),
            **{k: map_if_like(cut, v, structure) for k, v in extra.items()},
        )
        back = lambda n, u, part: _put(jnp.zeros_like(u), chosen[n], part)
        fill = lambda tree: map_named(back, updates, tree)
        return Compressed(fill(results), fill(parts)), SubmatrixState(
            jnp.asarray(optax.safe_increment(state.count)),
            _map_state(_put, axes, chosen, state.links, inner),
        )

    return Compressor(init, update)


def _pick(
    name: str,
    u: jax.Array,
    fraction: float,
    axis: int | None,
    choose: Choose,
    count: jax.Array,
) -> Chosen:
    """The axis of a matrix, positive, and the indices chosen along it, ascending."""
    if axis is None:
        axis = -2 if u.shape[-2] <= u.shape[-1] else -1
    # In double, as the authors do: 0.28 * 25 is above 7, so 8 slices.
    k = max(1, math.ceil(fraction * u.shape[axis]))
    size = jnp.abs(u.astype(work_dtype(u.dtype)))
    scores = jnp.sum(size, axis=-1 if axis == -2 else -2)
    scores = jnp.where(jnp.isnan(scores), jnp.inf, scores)
    return u.ndim + axis, jnp.sort(choose(scores, k, count, name), axis=-1)


def _take(x: jax.Array, chosen: Chosen) -> jax.Array:
    """The chosen slices."""
    axis, indices = chosen
    axis -= indices.ndim - 1  # within one matrix
    one = lambda x, i: jnp.take(x, i, axis=axis, mode="clip", **ORDERED)
    return _each_matrix(one, indices)(x, indices)


def _put(x: jax.Array, chosen: Chosen, part: jax.Array) -> jax.Array:
    """x with the chosen slices replaced."""
    axis, indices = chosen
    before = (slice(None),) * (axis - indices.ndim + 1)
    one = lambda x, i, part: x.at[(*before, i)].set(part, **ORDERED)
    return _each_matrix(one, indices)(x, indices, part)


def _each_matrix(fn: Callable[..., jax.Array], indices: jax.Array) -> Any:
    """fn over the batch axes, which all but the last axis of the indices are."""
    for _ in range(indices.ndim - 1):
        fn = jax.vmap(fn)
    return fn


def _state_axes(init: Callable[[Any], Any], whole: Any, parts: Any) -> list[int | None]:
    """For each leaf of the links' state, the axis with one entry a slice, if any."""
    axes: list[int | None] = []
    full, small = (jax.eval_shape(init, tree) for tree in (whole, parts))
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(full)[0],
        jax.tree.leaves(small),
        strict=True,
    ):
        sizes = zip(a.shape, b.shape, strict=True)
        differ = [i for i, (m, k) in enumerate(sizes) if m != k]
        if len(differ) > 1:
            raise ValueError(
                _check.message(
                    "submatrix.update",
                    f"the state {jax.tree_util.keystr(path)} of its links has shape "
                    f"{a.shape} for whole matrices and {b.shape} for the chosen slices",
                    "shapes that differ in one axis at most",
                    "Use the link outside submatrix",
                )
            )
        axes.append(differ[0] if differ else None)
    return axes


def _map_state(
    fn: Callable[..., jax.Array],
    axes: list[int | None],
    chosen: dict[str, Chosen],
    state: Any,
    *rest: Any,
) -> Any:
    """fn(leaf, chosen, *others) of the leaves with one entry a slice; else the last."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(state)
    results = []
    for axis, (path, leaf), *others in zip(
        axes, paths, *map(jax.tree.leaves, rest), strict=True
    ):
        if axis is None:
            results.append([leaf, *others][-1])
        else:
            # Matrix links keep their state in dictionaries {matrix name: array}.
            name = [step.key for step in path if isinstance(step, DictKey)][-1]
            results.append(fn(leaf, (axis, chosen[name][1]), *others))
    return jax.tree.unflatten(treedef, results)
