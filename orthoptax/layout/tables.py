# SPDX-License-Identifier: Apache-2.0
"""Ready rule tables for Flax; names that every ready table shares.

Each table lists kinds of leaves, written for the unstacked leaf. Heads, scanned
containers, experts and fused projections are told by the stated lists of names below.
"""

from collections.abc import Mapping, Sequence

from orthoptax.layout.kinds import ask, component, layered, stacking
from orthoptax.layout.rules import Rule, Rules
from orthoptax.layout.view import MatrixView

HEADS = (
    "head", "lm_head", "output_head", "logits", "logits_dense", "unembed",
    "unembedding", "classifier", "output_layer",
)  # fmt: skip
"""Modules that map features to classes or tokens, and so go to the other optimizer."""

SCANNED = ("blocks", "layers", "scanned_blocks", "scanned_layers")
"""Containers whose leaves carry a layer axis, unless a number follows the name."""

EXPERTS = ("experts",)
"""Containers whose leaves carry an expert axis before those of the unstacked leaf."""

FUSED = (
    "qkv", "qkv_proj", "query_key_value", "c_attn", "in_proj", "kv", "kv_proj",
    "gate_up", "gate_up_proj",
)  # fmt: skip
"""Projections whose rows hold several matrices, whose sizes must be said."""

QUERIES = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v")
"""Attention projections, (d, heads, hd) where they have three axes."""

OUTPUTS = ("out", "out_proj", "o_proj", "o", "attn_out")
"""Attention outputs, (heads, hd, d) where they have three axes."""

CONVOLUTION = r"(^|/)[^/]*[Cc]onv[^/]*/"
"""Modules with 'conv' in their name."""


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
    convolutions (..., in, out) of modules with 'conv' in their name are matrices;
    depthwise convolutions, embeddings, heads, gains and biases are not.

    Args:
      *overrides: rules, or (pattern, view) pairs, that win over the table.
      scan_axis: where the layer axis of stacked kernels is, 0 or 1. None: axis 0 in the
        `scanned` containers, and a 3-D kernel elsewhere is an error that asks; a number
        settles every kernel that has one axis too many.
      scanned: names of containers whose leaves carry the layer axis.
      heads: names of modules that are output heads.
      experts: names of containers whose leaves carry an expert axis.
      fused: {module name: sizes of the blocks of its output axis}, for example
        {"qkv": (768, 256, 256), "gate_up": (3072, 3072)}.
    Returns: a `Rules`, which is a `Layout`.
    Raises: ValueError for a `scan_axis` that is not 0 or 1; when called, for a leaf that
      no rule decides.
    Example:
      >>> import jax.numpy as jnp
      >>> flax()("blocks/0/mlp/kernel", jnp.zeros((4, 8))).shapes((4, 8))
      [(8, 4)]
    """
    stack = stacking("flax", scan_axis, scanned, experts)
    fused = {} if fused is None else fused
    head, embed = component(heads) + "/kernel$", r"[Ee]mbed[^/]*/kernel$"
    fused_names = component([*FUSED, *fused]) + "/kernel$"
    named = f"{head}|{embed}|{fused_names}|{CONVOLUTION}"
    attention = f"{component(QUERIES)}/kernel$|{component(OUTPUTS)}/kernel$"
    dense = Rule(r"(^|/)kernel$", MatrixView((1,), (0,)), "dense", 2, unless=named)
    query = Rule(component(QUERIES) + "/kernel$", MatrixView((1, 2), (0,)),
                 "attention", 3)
    output = Rule(component(OUTPUTS) + "/kernel$", MatrixView((2,), (0, 1)),
                  "attention output", 3)
    triple = Rule(component(FUSED[:3]) + "/kernel$", MatrixView((2, 3), (0,)),
                  "fused attention", 4, when=lambda shape: shape[1] == 3)
    kinds = [
        Rule(r"(^|/)(bias|scale)$", None, "gain or bias"),
        Rule(r"[Ee]mbed[^/]*$", None, "embedding"),
        Rule(head, None, "head"),
        *([query, output] if scan_axis is None else []),
        dense,
        triple,
        *(
            Rule(component([name]) + "/kernel$", MatrixView((1,), (0,), tuple(sizes)),
                 "fused", 2)
            for name, sizes in fused.items()
        ),
        *(rule for n in (1, 2, 3) for rule in _convolution(n)),
    ]  # fmt: skip
    outside = Rule(dense.pattern, dense.view, dense.role, 2,
                   unless=f"{named}|{attention}")
    table = [rule for kind in kinds for rule in stack.expand(kind)]
    table += [r for kind in (outside, query, output) for r in stack.everywhere(kind)]
    return layered("flax", overrides, table, _questions())


def _convolution(spatial: int) -> list[Rule]:
    """Kernels (*window, in, out) of a convolution over this many axes."""
    i, o = spatial, spatial + 1
    name, view = CONVOLUTION + "kernel$", MatrixView((o,), tuple(range(o)))
    return [
        Rule(name, view, "convolution", spatial + 2, unless="ConvLocal",
             when=lambda shape: shape[i] != 1),
        Rule(name, None, "depthwise or one-channel convolution", spatial + 2,
             unless="ConvLocal", when=lambda shape: shape[i] == 1),
    ]  # fmt: skip


def _questions() -> list[Rule]:
    """What a kernel that no rule decides could be, by its number of axes."""
    kernel = r"(^|/)kernel$"
    scanned = "a stack of {0}, layers on axis 0 or 1"
    settle = "flax(scan_axis=0), flax(scan_axis=1), or scanned=(its container,)"
    return [
        ask(kernel, 2,
            ("a fused projection", "flax(fused={its module: sizes of the blocks})"),
            ("an embedding", "the rule with None"),
            ("one matrix (in, out)", "the rule below")),
        ask(kernel, 3,
            (scanned.format("Dense kernels"), settle),
            ("a one-dimensional convolution (width, in, out)",
             "MatrixView(rows=(2,), cols=(0, 1))"),
            ("an attention kernel (d, heads, hd)", "MatrixView(rows=(1, 2), cols=(0,))"),
            ("an attention output (heads, hd, d)", "MatrixView(rows=(2,), cols=(0, 1))")),
        ask(kernel, 4,
            ("a two-dimensional convolution (height, width, in, out)",
             "MatrixView(rows=(3,), cols=(0, 1, 2))"),
            (scanned.format("attention kernels or of one-dimensional convolutions"),
             settle),
            ("a scanned stack of experts", "experts=(its container,)")),
    ]  # fmt: skip
