# SPDX-License-Identifier: Apache-2.0
"""Ready rules for models named as in MaxText."""

import dataclasses
from collections.abc import Mapping, Sequence

from orthoptax.layout.kernels import kernels
from orthoptax.layout.kinds import names, stacking
from orthoptax.layout.lists import EXPERTS, HEADS, QUERIES
from orthoptax.layout.rules import Rule, Rules
from orthoptax.layout.view import MatrixView

LAYERS = ("layers", "dense_layers", "moe_layers", "scanned_blocks")
"""Containers of MaxText whose leaves carry a layer axis; 'layers_0' is unstacked."""

LATENT = ("wq_b", "wkv_b")
"""Second projections of latent attention, (rank, heads, hd)."""

EVERYWHERE = ""
"""Pattern of all names: outside the containers MaxText stacks nothing."""


def maxtext(
    *overrides: Rule | tuple[str, MatrixView | None],
    scan_axis: int = 1,
    scanned: Sequence[str] = LAYERS,
    heads: Sequence[str] = HEADS,
    experts: Sequence[str] = EXPERTS,
    fused: Mapping[str, Sequence[int]] | None = None,
) -> Rules:
    """Rules for models named as in MaxText, such as 'decoder/layers/mlp/wi_0/kernel'.

    As `flax`, and besides: layers on axis 1, experts (experts, layers, in, out) stored
    as 'MoeBlock_0/wi_0' without 'kernel', gate and up in one (d, 2, mlp) kernel, and
    latent attention. The key and value half of 'wkv_b' are read as one matrix.

    Args:
      *overrides: rules, or (pattern, view) pairs, that win over the table.
      scan_axis: where the layer axis of stacked leaves is, 0 or 1.
      scanned: names of containers whose leaves carry the layer axis. Items that carry a
        number, 'layers_0', do not.
      heads: names of modules that are output heads.
      experts: names of containers whose leaves carry an expert axis, for models that
        differ from MaxText there.
      fused: {module name: sizes of the blocks of its output axis}.
    Returns: a `Rules`, which is a `Layout`.
    Raises: ValueError for a `scan_axis` that is not 0 or 1; TypeError for one name in
      place of several; when called, ValueError for a leaf that no rule decides.
    Example:
      >>> import jax.numpy as jnp
      >>> name, leaf = "decoder/layers/mlp/wi_0/kernel", jnp.zeros((4, 2, 8))
      >>> maxtext()(name, leaf).shapes(leaf.shape)
      [(2, 8, 4)]
    """
    stack = stacking("maxtext", scan_axis, scanned, experts)
    return kernels(
        "maxtext",
        overrides,
        dataclasses.replace(stack, given=True, unstacked=EVERYWHERE),
        heads=names("maxtext", "heads", heads),
        fused={} if fused is None else fused,
        queries=(*QUERIES, *LATENT),
        more=[
            Rule(r"(^|/)MoeBlock_\d+/(wi_0|wi_1|wo)$", MatrixView((2,), (1,)),
                 "experts", 3),
            Rule(r"(^|/)MoeBlock_\d+/(wi_0|wi_1|wo)_bias$", None, "gain or bias"),
            Rule(r"(^|/)wi/kernel$", MatrixView((2,), (0,)), "fused gate and up", 3,
                 when=lambda shape: shape[1] == 2),
        ],
    )  # fmt: skip
