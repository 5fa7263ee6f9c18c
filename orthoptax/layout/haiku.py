# SPDX-License-Identifier: Apache-2.0
"""Ready rules for Haiku models."""

from collections.abc import Mapping, Sequence

from orthoptax.layout.kinds import (
    Stacking,
    ask,
    fused_kinds,
    layered,
    names,
    sizes_line,
)
from orthoptax.layout.lists import (
    EXPERTS,
    FUSED,
    HEADS,
    component,
    container,
    either,
)
from orthoptax.layout.rules import Rule, Rules
from orthoptax.layout.view import MatrixView

LAYER_STACKS = ("__layer_stack",)
"""How the modules of `hk.experimental.layer_stack` begin; its layers are on axis 0."""

CONV = r"(^|/)(?![^/]*transpose)[^/]*conv[^/]*/w$"
TRANSPOSED = r"(^|/)[^/]*conv[^/]*transpose[^/]*/w$"
LSTM = r"(^|/)[^/]*lstm[^/]*/linear/w$"
GRU = r"(^|/)w_[ih]$"
GAIN = r"(^|/)(b|scale|offset|bias)$"
STACK = MatrixView(rows=(-1,), cols=(-2,))


def haiku(
    *overrides: Rule | tuple[str, MatrixView | None],
    scanned: Sequence[str] = LAYER_STACKS,
    heads: Sequence[str] = HEADS,
    experts: Sequence[str] = EXPERTS,
    fused: Mapping[str, Sequence[int]] | None = None,
) -> Rules:
    """Rules for Haiku models, with names such as 'mlp/~/linear_0/w'.

    Linear weights (in, out) and convolutions (*window, in, out), transposed ones
    (*window, out, in), are matrices; depthwise convolutions, embeddings, heads, gains
    and biases are not. Convolutions are told by 'conv' in the name of their module,
    transposed ones by 'transpose' besides. `layer_stack` stacks on axis 0.

    Args:
      *overrides: rules, or (pattern, view) pairs, that win over the table.
      scanned: how the names of containers begin whose leaves carry the layer axis.
      heads: names of modules that are output heads.
      experts: names of containers whose leaves carry an expert axis.
      fused: {module or leaf name: sizes of the blocks of its output axis}, for example
        {"lstm/linear": (64, 64, 64, 64)} for the gates of an LSTM.
    Returns: a `Rules`, which is a `Layout`.
    Raises: TypeError for one name in place of several; when called, ValueError for a
      leaf that no rule decides.
    Example:
      >>> import jax.numpy as jnp
      >>> haiku()("mlp/~/linear_0/w", jnp.zeros((4, 8))).shapes((4, 8))
      [(8, 4)]
    """
    where, fused = "haiku", {} if fused is None else fused
    stack = Stacking(
        axis=0,
        given=False,
        scanned=component(names(where, "scanned", scanned)) + "[^/]*/",
        experts=container(names(where, "experts", experts)),
        unstacked="",  # outside the containers nothing is stacked
    )
    head = component(names(where, "heads", heads)) + "/w$"
    parts = either(component([*FUSED, *fused]) + "(/w)?$", LSTM, GRU)
    named = either(head, parts, CONV, TRANSPOSED)
    matrix = MatrixView(rows=(1,), cols=(0,))
    certain = [
        Rule(GAIN, None, "gain or bias"),
        Rule(r"[Ee]mbed[^/]*$", None, "embedding"),
        Rule(head, None, "head"),
    ]
    kinds = [
        Rule(r"(^|/)w$", matrix, "linear", 2, unless=named),
        *fused_kinds(where, fused, "(/w)?$", matrix),
        *(rule for n in (1, 2, 3) for rule in _convolution(n)),
    ]
    table = [*certain, *(rule for kind in kinds for rule in stack.expand(kind))]
    return layered(where, overrides, table, _questions(parts, named))


def _convolution(spatial: int) -> list[Rule]:
    """Weights (*window, in, out), or transposed (*window, out, in)."""
    i, o, window = spatial, spatial + 1, tuple(range(spatial))
    n = spatial + 2
    return [
        Rule(CONV, MatrixView((o,), (*window, i)), "convolution", n,
             when=lambda shape: shape[i] != 1),
        Rule(CONV, None, "depthwise or one-channel convolution", n,
             when=lambda shape: shape[i] == 1),
        Rule(TRANSPOSED, MatrixView((i,), (*window, o)), "transposed convolution", n),
    ]  # fmt: skip


def _questions(parts: str, named: str) -> list[Rule]:
    """What a weight that no rule decides could be."""
    weight, one = r"(^|/)w$", ("one matrix (in, out), or a stack of such", STACK)
    sizes = ("a fused projection; put in the sizes of its parts", sizes_line(-1))
    what = "the gates of a recurrent cell; put in their sizes"
    gates = {  # known to `fused` as 'lstm/linear', 'gru/w_h'
        LSTM: (what, sizes_line(-1, key=slice(-3, -1))),
        GRU: (what, sizes_line(-1, key=slice(-2, None))),
    }
    window = [MatrixView((n - 1,), tuple(range(n - 1))) for n in range(6)]
    return [
        *(ask(parts, n, sizes, one, unless=either(*gates)) for n in (2, 3)),
        *(ask(key, n, gates[key], one) for n in (2, 3) for key in gates),
        ask(weight, 3, ("a stack of Linear weights, layers on axis 0", STACK),
            ("a one-dimensional convolution (width, in, out)", window[3]),
            unless=named),
        ask(weight, 4, ("a two-dimensional convolution (height, width, in, out)",
                        window[4]),
            ("a stack of stacks (in, out), layers and experts", STACK), unless=named),
    ]  # fmt: skip
