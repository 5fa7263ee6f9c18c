# SPDX-License-Identifier: Apache-2.0
"""What leaves called `kernel` are in Flax, and in models that use Flax's names."""

from collections.abc import Mapping, Sequence

from orthoptax.layout.kinds import Stacking, ask, fused_kinds, layered, sizes_line
from orthoptax.layout.lists import (
    CONVOLUTION,
    EMBEDDING,
    FUSED,
    OUTPUTS,
    QKV,
    QUERIES,
    component,
    either,
)
from orthoptax.layout.rules import Rule, Rules, Shape
from orthoptax.layout.view import MatrixView

KERNEL = "/kernel$"
STACK = MatrixView(rows=(-1,), cols=(-2,))
QUERY = MatrixView(rows=(1, 2), cols=(0,))
OUTPUT = MatrixView(rows=(2,), cols=(0, 1))


def kernels(
    where: str,
    overrides: Sequence[Rule | tuple[str, MatrixView | None]],
    stack: Stacking,
    *,
    heads: Sequence[str],
    fused: Mapping[str, Sequence[int]],
    queries: Sequence[str] = QUERIES,
    more: Sequence[Rule] = (),
) -> Rules:
    """Rules of the names of Flax, which `flax` documents, with room for more.

    Args:
      where: the constructor, for error messages.
      overrides: rules that win over the table.
      stack: where layers and experts are stacked.
      heads: modules that are output heads.
      fused: sizes of the blocks of fused projections, by module.
      queries: modules whose kernels are (d, heads, hd) where they have three axes.
      more: kinds of leaves that Flax does not know; dense kernels make way for them.
    Returns: a `Rules`.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.layout.kinds import stacking
      >>> stack = stacking("mine", None, ("layers",), ())
      >>> layout = kernels("mine", (), stack, heads=("head",), fused={})
      >>> layout.role("layers/up/kernel", jnp.zeros((2, 4, 8)))
      'dense, scanned'
    """
    head = component(heads) + KERNEL
    parts = component([*FUSED, *fused]) + KERNEL
    others = either(head, EMBEDDING + KERNEL, parts, CONVOLUTION + "kernel$")
    others = either(others, *(kind.pattern for kind in more))
    query, output = component(queries) + KERNEL, component(OUTPUTS) + KERNEL
    attention = either(query, output)
    matrix = MatrixView(rows=(1,), cols=(0,))
    dense = Rule(r"(^|/)kernel$", matrix, "dense", 2, unless=others)
    alone = Rule(r"(^|/)kernel$", matrix, "dense", 2, unless=either(others, attention))
    blocks = fused_kinds(where, fused, KERNEL, matrix)
    certain = [
        Rule(r"(^|/)(bias|scale|negative_slope)$", None, "gain or bias"),
        Rule(r"[Ee]mbed[^/]*$", None, "embedding"),
        Rule(head, None, "head"),
        dense,
        *blocks,
        *more,
        *(rule for n in (1, 2, 3) for rule in _convolution(n)),
    ]
    doubtful = _attention(query, output)
    table = [rule for kind in certain for rule in stack.expand(kind)]
    table += [r for kind in doubtful for r in stack.expand(kind, doubtful=True)]
    table += [r for kind in (alone, *blocks, *doubtful) for r in stack.outside(kind)]
    questions = _fused_questions(stack, parts) + _embedding_questions(parts)
    named = either(parts, EMBEDDING + KERNEL)
    questions += _attention_questions(stack, query, output, named)
    questions += _questions(stack, named, attention)
    return layered(where, overrides, table, questions)


def _attention(query: str, output: str) -> list[Rule]:
    """Kernels of three axes or more that could be stacks of smaller ones."""
    return [
        Rule(query, QUERY, "attention", 3),
        Rule(output, OUTPUT, "attention output", 3),
        Rule(component(QKV) + KERNEL, MatrixView((2, 3), (0,)), "fused attention", 4,
             when=lambda shape: shape[1] == 3),
    ]  # fmt: skip


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


def _fused_questions(stack: Stacking, parts: str) -> list[Rule]:
    """What a kernel could be whose module is named like a fused projection."""
    one = ("one matrix (in, out), or a stack of such", STACK)
    sizes = ("a fused projection; put in the sizes of its parts", sizes_line(-1))
    layers = [
        (f"a stack of fused projections, layers on axis {axis}",
         sizes_line(-1, before=f"scan_axis={axis}, "))
        for axis in (0, 1)
    ]  # fmt: skip
    heads = ("fused attention (d, heads, parts), one repetition a head", _interleaved)
    free = either(stack.containers, stack.unstacked)
    return [
        ask(parts, 2, sizes, one),
        ask(parts, 3, sizes, one, inside=stack.containers),
        ask(parts, 3, *layers, heads, one, unless=free),
        ask(parts, 3, heads, one, inside=stack.unstacked, unless=stack.containers),
        ask(parts, 4, one, ("fused attention (d, parts, heads, hd)",
                            MatrixView((2, 3), (0,)))),
    ]  # fmt: skip


def _interleaved(name: str, shape: Shape) -> MatrixView:
    """Query, key and value of every head side by side: (d, heads, 3 * hd)."""
    parts = 3 if shape[2] % 3 == 0 else 1
    return MatrixView((1, 2), (0,), (shape[2] // parts,) * parts, groups=shape[1])


def _embedding_questions(parts: str) -> list[Rule]:
    """What a kernel could be whose module is named like an embedding."""
    kernel, table = EMBEDDING + KERNEL, ("an embedding, not a matrix", None)
    return [
        ask(kernel, 2, table, ("an input projection (in, out)", STACK), unless=parts),
        *(
            ask(kernel, n, table, ("a convolution of patches (*window, in, out)",
                                   MatrixView((n - 1,), tuple(range(n - 1)))),
                ("a stack of projections (in, out)", STACK), unless=parts)
            for n in (3, 4, 5)
        ),
    ]  # fmt: skip


def _attention_questions(
    stack: Stacking, query: str, output: str, named: str
) -> list[Rule]:
    """What an attention kernel could be that may or may not be stacked."""
    scanned = MatrixView(rows=(2,), cols=(1 - stack.axis,))
    layers = (f"a stack of Dense kernels, layers on axis {stack.axis}", scanned)
    axes = [
        (f"a stack of attention kernels, layers on axis {axis}", f"scan_axis={axis}")
        for axis in (0, 1)
    ]
    kernel = ("an attention kernel (d, heads, hd)", QUERY)
    projection = ("an attention output (heads, hd, d)", OUTPUT)
    free = either(named, stack.containers, stack.unstacked)
    return [
        ask(query, 3, layers, kernel, unless=free),
        ask(output, 3, layers, projection, unless=either(free, query)),
        ask(either(query, output), 4, *axes, ("a stack of stacks (in, out)", STACK),
            unless=free),
    ]  # fmt: skip


def _questions(stack: Stacking, parts: str, attention: str) -> list[Rule]:
    """What any other kernel could be, by its number of axes."""
    kernel, named = r"(^|/)kernel$", either(parts, attention)
    kept = either(stack.containers, stack.unstacked)
    window = ("a one-dimensional convolution (width, in, out)", OUTPUT)
    three = [
        window,
        ("an attention kernel (d, heads, hd)", QUERY),
        ("an attention output (heads, hd, d)", OUTPUT),
    ]
    layers = "a stack of Dense kernels, layers on axis {0}".format
    four = [
        ("a two-dimensional convolution (height, width, in, out)",
         MatrixView((3,), (0, 1, 2))),
        ("a stack of attention kernels, layers on axis 0", MatrixView((2, 3), (1,))),
        ("a stack of attention kernels, layers on axis 1", MatrixView((2, 3), (0,))),
        ("a stack of stacks (in, out), layers and experts", STACK),
    ]  # fmt: skip
    return [
        ask(kernel, 3, (layers(0), "scan_axis=0"), (layers(1), "scan_axis=1"), *three,
            unless=either(named, kept)),
        ask(kernel, 3, (layers(0), STACK), (layers(1), MatrixView((2,), (0,))), *three,
            inside=kept, unless=named),
        ask(kernel, 4, *four, unless=named),
        ask(attention, 4, *four, inside=kept, unless=parts),
    ]  # fmt: skip
