# SPDX-License-Identifier: Apache-2.0
"""A link that records what passes through it, so that a wrong direction shows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._types import matrix_link
from orthoptax.diagnostics import measures
from orthoptax.matrix.orientation import flip

TOLERANCE = 0.85  # below 1.00, square noise; above 0.40, Jordan's steps; see `record`


class RecordState(NamedTuple):
    """State of `record`; every statistic is of the last update, 0 before the first.

    count: int32, completed updates.
    key: typed key of the next update's probes.
    orthogonality_error: {matrix name: float32 of the batch shape}, see `probe`.
    update_rms: likewise, root-mean-square of the update per unit of learning rate.
    update_to_weight: likewise, that over the root-mean-square of the weights.
    spectral_norm: likewise, a lower bound of the update's.
    orthogonalized: int32, number of matrices whose error is within the tolerance.
    matrices: int32, number of matrices.
    """

    count: jax.Array
    key: jax.Array
    orthogonality_error: Any
    update_rms: Any
    update_to_weight: Any
    spectral_norm: Any
    orthogonalized: jax.Array
    matrices: jax.Array


@matrix_link
def record(
    *,
    tolerance: ArrayLike = TOLERANCE,
    probes: int = measures.PROBES,
    steps: int = measures.STEPS,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Records how orthogonal, how large and how steep each matrix update is.

    Stands last among the matrix links, `muon(0.02, after=record())`: before rate and
    decay, so sizes are per unit of learning rate. Updates pass unchanged. Read it with
    `optax.tree.get(state, "orthogonalized")`, against `"matrices"` and against
    `describe(params).matrices`: fewer matrices mean that something else trains those
    weights, fewer orthogonalized ones that, or gradients of low rank (see below).

        O <- U sqrt(r) / ||U||_F,   r = min(rows, cols)
        error <- ||O O^T - I||_F / sqrt(r)                  by random probes
        orthogonalized <- number of matrices with error <= tolerance

    What the error is. Gaussian matrices of 128 rows, and others of condition number up
    to 100: 0.00-0.12 after exact or well tuned polar functions, 0.30-0.40 after
    Jordan's five steps. Square Gaussian noise, its signs, and the zero matrix: 1.

    What it cannot tell. Independent entries have sqrt(min/max): noise of 2:1 has 0.71,
    of 4:1 0.50, and counts as orthogonalized; so does a matrix of one row. A direction
    that is orthogonal on a part only, k of r singular values equal and the others not
    lifted (gradients of low rank; singular values below 1/485 of the norm, under
    Jordan's steps), has sqrt(r/k - 1) and is not counted below k = 0.58 r. So Muon
    itself is not counted while its gradients are of low rank; a larger tolerance then
    counts it, and square noise too. Read `update_rms` beside the count: it is what the
    shape rule promises, 0.2 under `match_rms`, less the part that was not lifted.

    Args:
      tolerance: largest error that counts as orthogonalized. Traceable.
      probes: random vectors a matrix; with 4 the error is known to 5 % at 128 rows and
        to 15 % at 8. Static.
      steps: products of each matrix and its transpose with the probes. Static.
      key: a typed key; None: `jax.random.key(0)`. Static.
    State:
      count, key, orthogonality_error, update_rms, update_to_weight, spectral_norm,
      orthogonalized, matrices: see `RecordState`.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves
      that needs `params`. Costs 4 probes steps + 20 operations an entry, less than 5 %
      of `newton_schulz()` from 96 rows and columns on.
    Raises: ValueError if `tolerance` is a negative or NaN Python number, `probes` or
      `steps` is less than 1, a leaf has fewer than two axes or `params` is missing;
      TypeError if `key` is not a typed key.
    Example:
      >>> import jax.numpy as jnp
      >>> tx, params = record(), {"w": 2 * jnp.eye(3)}
      >>> _, state = tx.update({"w": jnp.eye(3)}, tx.init(params), params)
      >>> int(optax.tree.get(state, "orthogonalized")), int(state.matrices)
      (1, 1)

    Source: ours; Hutchinson, 1990, for the probes.
    """
    _check_arguments(tolerance, probes, steps, key)

    def init(params: optax.Params) -> RecordState:
        for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            _check.is_matrix("record", name, p.shape)
        zeros = lambda: jax.tree.map(
            lambda p: jnp.zeros(p.shape[:-2], jnp.float32), params
        )
        return RecordState(
            count=jnp.zeros((), jnp.int32),
            # A buffer of the state's own: donating it must not delete the user's key.
            key=jax.random.key(0) if key is None else jnp.copy(key),
            orthogonality_error=zeros(),
            update_rms=zeros(),
            update_to_weight=zeros(),
            spectral_norm=zeros(),
            orthogonalized=jnp.zeros((), jnp.int32),
            matrices=_number(zeros()),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, RecordState]:
        del extra
        _check.has_params("record", params)
        leaves, treedef = jax.tree.flatten(updates)
        fresh, now = jax.random.split(state.key)
        probed = _probe_all(leaves, now, probes, steps)
        errors, norms = (jax.tree.unflatten(treedef, x) for x in probed)
        within = jax.tree.map(
            lambda e: jnp.sum(e <= tolerance, dtype=jnp.int32), errors
        )
        return updates, RecordState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            key=fresh,
            orthogonality_error=errors,
            update_rms=jax.tree.map(measures.rms, updates),
            update_to_weight=jax.tree.map(measures.update_to_weight, updates, params),
            spectral_norm=norms,
            orthogonalized=sum(jax.tree.leaves(within), start=jnp.zeros((), jnp.int32)),
            matrices=_number(errors),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _check_arguments(
    tolerance: ArrayLike, probes: int, steps: int, key: jax.Array | None
) -> None:
    """Raises for numbers out of range and for a key of the old, untyped kind."""
    _check.in_range("record", "tolerance", tolerance)
    _check.in_range("record", "probes", probes, 1)
    _check.in_range("record", "steps", steps, 1)
    if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            _check.message("record", f"key has dtype {key.dtype}", "a typed key",
                           "Pass jax.random.key(seed)")
        )  # fmt: skip


def _probe_all(
    leaves: list[jax.Array], key: jax.Array, probes: int, steps: int
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Errors and norms of all leaves, those of equal matrices in one program.

    One draw serves all, and leaves are stacked, so that the time to compile does not
    grow with the number of layers.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, u in enumerate(leaves):
        groups.setdefault((min(u.shape[-2:]), max(u.shape[-2:])), []).append(i)
    flat = [flip(u).reshape(-1, *flip(u).shape[-2:]) for u in leaves]
    sizes = [u.shape[0] * u.shape[1] * probes for u in flat]
    draw, used = jax.random.normal(key, (sum(sizes),), jnp.float32), 0
    errors, norms = list(leaves), list(leaves)
    for (rows, _), members in groups.items():
        stack = jnp.concatenate([flat[i].astype(jnp.float32) for i in members])
        z = draw[used : used + stack.shape[0] * rows * probes]
        used += z.size
        found = measures.probe(stack, z.reshape(-1, rows, probes), steps=steps)
        ends = np.cumsum([flat[i].shape[0] for i in members])[:-1].tolist()
        for results, values in zip((errors, norms), found, strict=True):
            for i, part in zip(members, jnp.split(values, ends), strict=True):
                results[i] = part.reshape(leaves[i].shape[:-2])
    return errors, norms


def _number(statistics: Any) -> jax.Array:
    """How many numbers a tree of statistics holds: one a matrix."""
    return jnp.asarray(sum(x.size for x in jax.tree.leaves(statistics)), jnp.int32)
