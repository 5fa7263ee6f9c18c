# SPDX-License-Identifier: Apache-2.0
"""Means of a diagonal over entries that are expected to be alike."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_map_with_path

from orthoptax._check import count, is_callable, message

Average = Callable[[str, jax.Array], jax.Array]
"""average(path of a leaf, its diagonal): the same shape, entries replaced by means."""


def average_axes(axes: Callable[[str, Any], Sequence[int]]) -> Average:
    """The mean over some axes of each leaf.

    Args:
      axes: maps (path, leaf) to the axes of that leaf; none leaves it alone. For
        convolution kernels (*window, in, out), `range(leaf.ndim - 2)`. Static.
    Returns: an `Average`.
    Raises: TypeError if `axes` is not a function.
    Example:
      >>> average = average_axes(lambda path, leaf: (0,))
      >>> average("conv/kernel", jnp.asarray([[1.0, 2.0], [3.0, 6.0]])).tolist()
      [[2.0, 4.0], [2.0, 4.0]]

    Source: Yao et al., AdaHessian, arXiv:2006.00719, section 3.3; code
      amirgholami/adahessian@85ebc00, image_classification/optim_adahessian.py.
    """
    is_callable("average_axes", "axes", axes, "lambda path, leaf: (0, 1)")

    def average(path: str, d: jax.Array) -> jax.Array:
        over = tuple(axes(path, d))
        if not over:
            return d
        return jnp.broadcast_to(jnp.mean(d, axis=over, keepdims=True), d.shape)

    return average


def average_blocks(
    block_length: int, *, where: Callable[[str, Any], bool] | None = None
) -> Average:
    """The mean over runs of consecutive entries, in C order.

    Args:
      block_length: entries of a run; it divides the size of the leaf. Static.
      where: maps (path, leaf) to whether that leaf is averaged; None: those with two
        axes. Static.
    Returns: an `Average`. The authors' runs go along the inputs of (out, in) matrices;
      for (in, out) kernels write one that transposes.
    Raises: TypeError or ValueError for a length that is no number of entries; while
      tracing ValueError for a leaf that it does not divide.
    Example:
      >>> average = average_blocks(2)
      >>> average("w", jnp.asarray([[1.0, 3.0, 5.0, 9.0]])).tolist()
      [[2.0, 2.0, 7.0, 7.0]]

    Source: code amirgholami/adahessian@85ebc00,
      transformer/fairseq/optim/adahessian.py.
    """
    count("average_blocks", "block_length", block_length)
    where = (lambda path, leaf: leaf.ndim == 2) if where is None else where
    is_callable("average_blocks", "where", where, "lambda path, leaf: True")

    def average(path: str, d: jax.Array) -> jax.Array:
        if not where(path, d):
            return d
        if d.size % block_length:
            raise ValueError(
                message(
                    "average_blocks",
                    f"leaf {path!r} of shape {d.shape} is not made of runs of "
                    f"{block_length} entries",
                    "a length that divides the size of the leaf",
                    "Change block_length, or leave the leaf out with where=",
                )
            )
        runs = jnp.mean(d.reshape(-1, block_length), axis=1)
        return jnp.repeat(runs, block_length).reshape(d.shape)

    return average


def spatial_average(diagonal: Any, average: Average) -> Any:
    """The diagonal of a tree, every leaf averaged.

    Args:
      diagonal: a tree of arrays.
      average: for each leaf, see `Average`.
    Returns: a tree like it.
    Example:
      >>> tree = {"w": jnp.asarray([[1.0, 3.0]])}
      >>> spatial_average(tree, average_blocks(2))["w"].tolist()
      [[2.0, 2.0]]

    Source: Yao et al., AdaHessian, arXiv:2006.00719, section 3.3.
    """

    def leaf(path: Any, d: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return average(name, d)

    return tree_map_with_path(leaf, diagonal)
