# SPDX-License-Identifier: Apache-2.0
"""Ready rules for Equinox models."""

import dataclasses
from collections.abc import Mapping, Sequence

from orthoptax.layout.kinds import (
    Stacking,
    ask,
    fused_kinds,
    layered,
    names,
    sizes_line,
    stacking,
)
from orthoptax.layout.lists import (
    CONVOLUTION,
    EMBEDDING,
    EXPERTS,
    FUSED,
    HEADS,
    SCANNED,
    component,
    either,
)
from orthoptax.layout.rules import Rule, Rules
from orthoptax.layout.view import MatrixView

NORM = r"(^|/)([^/]*[Nn]orm[^/]*|(ln|rms)(_?[0-9a-z])?)/weight$"
GATES = r"(^|/)weight_(ih|hh)$"
NUMBERED = r"(^|/)\d+/weight$"
WEIGHT = r"(^|/)weight$"
STACK = MatrixView(rows=(-2,), cols=(-1,))


def equinox(
    *overrides: Rule | tuple[str, MatrixView | None],
    scan_axis: int | None = None,
    scanned: Sequence[str] = SCANNED,
    heads: Sequence[str] = HEADS,
    experts: Sequence[str] = EXPERTS,
    fused: Mapping[str, Sequence[int]] | None = None,
) -> Rules:
    """Rules for Equinox models.

    Linear weights (out, in) and convolutions (out, in, *window) are matrices;
    depthwise convolutions, embeddings, heads, gains and biases are not. All weights are
    called 'weight', so embeddings and norms are told by the names of their modules, and
    convolutions of two dimensions or more also by standing in a list, 'layers/0', where
    nothing is taken to be stacked.

    Args:
      *overrides: rules, or (pattern, view) pairs, that win over the table.
      scan_axis: where the layer axis of stacked weights is, 0 or 1. None: axis 0 in the
        `scanned` containers, and a 3-D weight elsewhere is an error that asks; a number
        settles it.
      scanned: names of containers whose leaves carry the layer axis (`filter_vmap`).
        Items that carry a number, 'blocks/0', are not stacked.
      heads: names of modules that are output heads.
      experts: names of containers whose leaves carry an expert axis.
      fused: {module or leaf name: sizes of the blocks of its output axis}, for example
        {"qkv": (768, 256, 256), "weight_ih": (64, 64, 64)} for the gates of a GRU cell.
    Returns: a `Rules`, which is a `Layout`. It needs a tree of arrays:
      `eqx.filter(model, eqx.is_inexact_array)`.
    Raises: ValueError for a `scan_axis` that is not 0 or 1; TypeError for one name in
      place of several; when called, ValueError for a leaf that no rule decides.
    Example:
      >>> import jax.numpy as jnp
      >>> equinox()("layers/0/weight", jnp.zeros((8, 4))).shapes((8, 4))
      [(8, 4)]
    """
    where, fused = "equinox", {} if fused is None else fused
    stack = stacking(where, scan_axis, scanned, experts)
    stack = dataclasses.replace(stack, flat=False)
    head = component(names(where, "heads", heads)) + "/weight$"
    embed, parts = EMBEDDING + "/weight$", component([*FUSED, *fused]) + "(/weight)?$"
    conv = CONVOLUTION + "weight$"
    named = either(head, embed, NORM, parts, conv, GATES)
    matrix = MatrixView(rows=(0,), cols=(1,))
    linear = Rule(WEIGHT, matrix, "linear", 2, unless=named)
    blocks = fused_kinds(where, fused, "(/weight)?$", matrix)
    kinds = [
        linear,
        *blocks,
        *(r for n in (1, 2, 3) for r in _convolution(n, conv, None)),
    ]
    listed = [  # an item of a list is not stacked, so its axes are those of a window
        r for n in (2, 3) for r in _convolution(n, NUMBERED, stack.containers)
    ]
    table = _gains(head, embed) + listed
    table += [r for kind in kinds for r in stack.expand(kind)]
    table += [r for kind in (linear, *blocks) for r in stack.outside(kind)]
    return layered(where, overrides, table, _questions(stack, parts, named))


def _gains(head: str, embed: str) -> list[Rule]:
    """What is no matrix, however it is stacked."""
    return [
        Rule(r"(^|/)(bias|bias_n|negative_slope)$", None, "gain or bias"),
        Rule(NORM, None, "gain or bias"),
        Rule(WEIGHT, None, "gain or bias", 1, unless=either(embed, NORM, head)),
        Rule(embed, None, "embedding"),
        Rule(head, None, "head"),
    ]


def _convolution(spatial: int, pattern: str, unless: str | None) -> list[Rule]:
    """Weights (out, in, *window) of a convolution over this many axes."""
    view = MatrixView((0,), tuple(range(1, spatial + 2)))
    return [
        Rule(pattern, view, "convolution", spatial + 2, unless=unless,
             when=lambda shape: shape[1] != 1),
        Rule(pattern, None, "depthwise or one-channel convolution", spatial + 2,
             unless=unless, when=lambda shape: shape[1] == 1),
    ]  # fmt: skip


def _questions(stack: Stacking, parts: str, named: str) -> list[Rule]:
    """What a weight that no rule decides could be."""
    sizes = ("a fused projection; put in the sizes of its parts", sizes_line(-2))
    gates = (
        "the gates of a recurrent cell; put in their sizes",
        sizes_line(-2, key=slice(-1, None)),
    )
    one = ("one matrix (out, in), or a stack of such", STACK)
    conv = ("a one-dimensional convolution (out, in, width)", MatrixView((0,), (1, 2)))
    kept = either(stack.containers, stack.unstacked)
    layers = "a stack of Linear weights, layers on axis {0}".format
    stacked = [
        (f"a stack of fused projections, layers on axis {axis}",
         sizes_line(rows, before=f"scan_axis={axis}, "))
        for axis, rows in ((0, 1), (1, 0))
    ]  # fmt: skip
    return [
        ask(parts, 2, sizes, one, unless=GATES),
        ask(parts, 3, sizes, one, inside=kept, unless=GATES),
        ask(parts, 3, *stacked, one, unless=either(kept, GATES)),
        ask(GATES, 2, gates, one),
        ask(GATES, 3, gates, one),
        ask(WEIGHT, 2, ("a stack of gains", None), ("a Linear weight (out, in)", STACK),
            inside=stack.containers, unless=named),
        ask(WEIGHT, 3, (layers(0), "scan_axis=0"), (layers(1), "scan_axis=1"), conv,
            unless=either(named, kept)),
        ask(WEIGHT, 3, (layers(0), STACK), (layers(1), MatrixView((0,), (2,))), conv,
            inside=kept, unless=named),
        ask(WEIGHT, 4, ("a two-dimensional convolution (out, in, height, width)",
                        MatrixView((0,), (1, 2, 3))),
            ("a stack of stacks (out, in), layers and experts", STACK),
            ("a stack of one-dimensional convolutions, layers on axis 0",
             MatrixView((1,), (2, 3))), unless=named),
    ]  # fmt: skip
