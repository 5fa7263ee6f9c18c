# SPDX-License-Identifier: Apache-2.0
"""Ready rules for Flax models, Linen and NNX."""

from collections.abc import Mapping, Sequence

from orthoptax.layout.kernels import kernels
from orthoptax.layout.kinds import names, stacking
from orthoptax.layout.lists import EXPERTS, HEADS, SCANNED
from orthoptax.layout.rules import Rule, Rules
from orthoptax.layout.view import MatrixView


def flax(
    *overrides: Rule | tuple[str, MatrixView | None],
    scan_axis: int | None = None,
    scanned: Sequence[str] = SCANNED,
    heads: Sequence[str] = HEADS,
    experts: Sequence[str] = EXPERTS,
    fused: Mapping[str, Sequence[int]] | None = None,
) -> Rules:
    """Rules for Flax models, Linen and NNX (their parameter names are the same).

    Dense kernels (in, out), attention kernels (d, heads, hd) and (heads, hd, d), and
    convolutions (*window, in, out) of modules with 'conv' in their name are matrices;
    depthwise convolutions, embeddings, heads, gains and biases are not. A tied head is
    the embedding. Transposed convolutions are read with `transpose_kernel=False`.

    Args:
      *overrides: rules, or (pattern, view) pairs, that win over the table.
      scan_axis: where the layer axis of stacked kernels is, 0 or 1. None: axis 0 in the
        `scanned` containers, and a 3-D kernel elsewhere is an error that asks; a number
        settles every kernel that has one axis too many and is not named like attention.
      scanned: names of containers whose leaves carry the layer axis. Items that carry a
        number, 'blocks/0' or 'blocks_0', are not stacked.
      heads: names of modules that are output heads.
      experts: names of containers whose leaves carry an expert axis, before all others
        but a layer axis 0.
      fused: {module name: sizes of the blocks of its output axis}, for example
        {"qkv": (768, 256, 256), "gate_up": (3072, 3072)}.
    Returns: a `Rules`, which is a `Layout`.
    Raises: ValueError for a `scan_axis` that is not 0 or 1; TypeError for one name in
      place of several; when called, ValueError for a leaf that no rule decides.
    Example:
      >>> import jax.numpy as jnp
      >>> flax()("blocks/0/mlp/kernel", jnp.zeros((4, 8))).shapes((4, 8))
      [(8, 4)]
    """
    return kernels(
        "flax",
        overrides,
        stacking("flax", scan_axis, scanned, experts),
        heads=names("flax", "heads", heads),
        fused={} if fused is None else fused,
    )
