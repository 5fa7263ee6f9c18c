# SPDX-License-Identifier: Apache-2.0
"""Parameter trees of public models, as shapes, and their usual shardings."""

import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from orthoptax._check import is_callable, message
from orthoptax._types import Layout
from orthoptax.layout import lists
from orthoptax.layout.leaves import parameters
from orthoptax.layout.names import map_named
from orthoptax.layout.tables import flax
from orthoptax.layout.view import MatrixView
from orthoptax.sharding.planning.architectures import (
    ARCHITECTURES,
    Shapes,
    Tree,
    nest,
    twice,
)

AXES = ("dp", "fsdp", "tp", "expert")
"""The mesh axes that `specs` knows."""

COLUMN_PARALLEL = (
    *lists.QUERIES, *lists.QKV, *lists.HEADS, "fused_qkv", "c_attn", "in_proj", "kv",
    "kv_proj", "q_b", "kv_b", "wq_b", "wkv_b", "wq", "wk", "wv", "gate", "up", "c_fc",
    "gate_proj", "up_proj", "gate_up", "gate_up_proj", "fc1", "mlp_in", "wi", "wi_0",
    "wi_1", "w1", "w3",
)  # fmt: skip
"""Modules whose outputs 'tp' cuts: what enters attention and MLP, and the head."""

ROW_PARALLEL = (
    *lists.OUTPUTS, "c_proj", "down", "down_proj", "fc2", "mlp_out", "wo", "w2",
)  # fmt: skip
"""Modules whose inputs 'tp' cuts: what leaves attention and MLP."""

OWN = r"(/[^/]+)?$"  # a leaf of the module that was named, or the leaf itself
HEAD = re.compile(lists.component(lists.HEADS) + OWN)
TABLE = re.compile(lists.EMBEDDING + OWN)
COLUMN = re.compile(lists.either(lists.component(COLUMN_PARALLEL) + OWN, TABLE.pattern))
ROW = re.compile(lists.component(ROW_PARALLEL) + OWN)
EXPERT = re.compile(lists.container(lists.EXPERTS))


def _tree(
    shapes: Callable[..., Shapes],
    dtype: DTypeLike = jnp.float32,
    *,
    stacked: bool = False,
) -> Tree:
    """The tree of an architecture."""
    kind, found = jnp.dtype(dtype), shapes(stacked=stacked).items()
    return nest((name, jax.ShapeDtypeStruct(shape, kind)) for name, shape in found)


MODELS: dict[str, Callable[..., Tree]] = {
    name: functools.partial(_tree, shapes) for name, shapes in ARCHITECTURES.items()
}
"""The models that are known by name: fn(dtype=float32, *, stacked=False) -> tree."""


def model(name: str, dtype: DTypeLike = jnp.float32, *, stacked: bool = False) -> Tree:
    """Builds the parameter tree of a public model: shapes and dtypes, no arrays.

    Names are those of Flax and kernels (in, out), so that `layout.flax()` reads every
    leaf without a question: attention and MLP are matrices, embeddings, heads, gains
    and biases are not. A head that is tied is the embedding.

    Args:
      name: a key of `MODELS`.
      dtype: of every leaf.
      stacked: layers on axis 0 of one leaf, 'layers/...', as `scan` has them; else each
        under its number, 'layers_0/...'. DeepSeek's two sorts of layers are then
        'dense/layers/...' and 'moe/layers/...'.
    Returns: nested dictionaries of `jax.ShapeDtypeStruct`.
    Raises: ValueError for a name that is not known.
    Example:
      >>> tree = model("llama3-8b", "bfloat16")
      >>> tree["layers_0"]["mlp"]["gate"]["kernel"].shape
      (4096, 14336)

    Deviations: GPT-2's fused projection is one matrix (in, 3 in); for three, pass
      `flax(fused={"fused_qkv": (768, 768, 768)})`. 'deepseek-v3-like' is DeepSeek-V3
      without the module that predicts further tokens and without the router's
      balancing bias, which no gradient trains. Its 'kv_a' (latent and rotary key) and
      'kv_b' (key and value) are one matrix each; experts are stacks (experts, in, out).
    Source: the tables of `architectures`.
    """
    if name not in MODELS:
        raise ValueError(
            message(
                "model",
                f"{name!r} is no model with known shapes",
                f"one of {', '.join(MODELS)}",
                "Pass one of them, or use read_shapes(...) for shapes of your own",
            )
        )
    return MODELS[name](dtype, stacked=stacked)


def read_shapes(
    path_or_text: str | os.PathLike[str], dtype: DTypeLike = jnp.float32
) -> Tree:
    """Reads a tree of shapes from JSON.

    A name may hold slashes, an object may nest, and a leaf is a list of sizes or an
    object with 'shape' and 'dtype'.

    Args:
      path_or_text: a file, or the text itself.
      dtype: of leaves that name none.
    Returns: nested dictionaries of `jax.ShapeDtypeStruct`.
    Raises: ValueError for what is neither a file nor JSON, and for an entry that is no
      shape, no dtype, or there twice.
    Example:
      >>> read_shapes('{"mlp/up/kernel": [4, 8]}')["mlp"]["up"]["kernel"].shape
      (4, 8)
    """
    text = os.fspath(path_or_text)
    if os.path.isfile(text):
        text = pathlib.Path(text).read_text(encoding="utf-8")
    expected = 'a file or text such as {"mlp/up/kernel": [4096, 14336]}'
    try:
        found = json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        wrong = f"{text[:60]!r} is neither a file nor JSON ({error})"
        action = "Check the path, or the place that is named"
        raise ValueError(message("read_shapes", wrong, expected, action)) from error
    leaves = list(_flat("", found, dtype)) if isinstance(found, dict) else []
    if not leaves:
        wrong, action = f"{text[:60]!r} names no parameter", "Give each a name"
        raise ValueError(message("read_shapes", wrong, expected, action))
    return nest(leaves)


def specs(
    tree: Any, mesh_shape: Mapping[str, int], layout: Layout | None = None
) -> Any:
    """Chooses a sharding of each parameter from the names of the mesh axes.

    Megatron's cuts by 'tp', with weights kept sharded by 'fsdp' besides:

        column-parallel kernel   outputs over tp, inputs over fsdp
        row-parallel kernel      inputs over tp, outputs over fsdp
        any other kernel         inputs over fsdp
        stack of experts         experts over expert, the rest as above
        embedding, head          vocabulary over tp, width over fsdp
        gain, bias               whole

    'fsdp' falls to the other side where it does not divide its own; an axis that
    divides neither is absent from the spec, and so is one of size 1. 'dp' cuts nothing.

    Args:
      tree: parameters or their shapes, in any pytree.
      mesh_shape: {axis: size}, for example `mesh.shape`; axes of `AXES`.
      layout: says which axes are inputs and outputs; None: `flax()`.
    Returns: the tree with a `PartitionSpec` for each leaf, one entry an axis.
    Raises: ValueError for an axis with another name, a size that is no positive
      integer, or a leaf that the layout cannot decide.
    Example:
      >>> tree = {"mlp": {"down": {"kernel": jax.ShapeDtypeStruct((8, 4), "float32")}}}
      >>> tuple(specs(tree, {"fsdp": 2, "tp": 4})["mlp"]["down"]["kernel"])
      ('tp', 'fsdp')

    Deviations: modules are told by name (`COLUMN_PARALLEL`, `ROW_PARALLEL`); biases of
      column-parallel layers, which Megatron cuts, stay whole. The expert axis is the
      last one before the matrix, in containers called 'experts'.
    Source: Shoeybi et al., Megatron-LM, arXiv:1909.08053, section 3; Rajbhandari et
      al., ZeRO, arXiv:1910.02054, stage 3.
    """
    layout = flax() if layout is None else layout
    is_callable("specs", "layout", layout, "flax()")
    sizes = _sizes(mesh_shape)
    parameters(tree, "specs")  # leaves that have no shape are refused
    return map_named(
        lambda name, leaf: _spec(name, tuple(leaf.shape), layout(name, leaf), sizes),
        tree,
    )


def _spec(
    name: str, shape: tuple[int, ...], view: MatrixView | None, sizes: Mapping[str, int]
) -> PartitionSpec:
    """The spec of one leaf; each mesh axis is placed once or not at all."""
    batch, rows, cols = _sides(name, shape, view)
    placed: list[str | None] = [None] * len(shape)

    def place(axis: str, candidates: Iterable[int]) -> None:
        """On the first free candidate that divides."""
        size = sizes.get(axis, 1)
        for i in candidates:
            if size > 1 and placed[i] is None and shape[i] % size == 0:
                placed[i] = axis
                return

    place("expert", batch[-1:] if EXPERT.search(name) else ())
    place("tp", rows if COLUMN.search(name) else cols if ROW.search(name) else ())
    inputs, outputs = (sorted(side, key=lambda i: -shape[i]) for side in (cols, rows))
    cut = any(placed[i] for i in cols)  # then fsdp goes to the other side
    place("fsdp", (*outputs, *inputs) if cut else (*inputs, *outputs))
    return PartitionSpec(*placed)


def _sides(
    name: str, shape: tuple[int, ...], view: MatrixView | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Batch, output and input axes; the vocabulary counts as output."""
    first, last = len(shape) - 2, len(shape) - 1
    if view is not None:
        return view.axes(shape, name)
    if first < 0:
        return (), (), ()
    if HEAD.search(name):
        return (), (last,), (first,)
    return ((), (first,), (last,)) if TABLE.search(name) else ((), (), ())


def _sizes(mesh_shape: Mapping[str, int]) -> dict[str, int]:
    """The sizes of the mesh axes, checked."""
    unknown = [axis for axis in mesh_shape if axis not in AXES]
    if unknown:
        raise ValueError(
            message(
                "specs",
                f"no default sharding over mesh axes {', '.join(map(repr, unknown))}",
                f"axes among {', '.join(AXES)}",
                "Rename the axes, or write the specs yourself",
            )
        )
    for axis, size in mesh_shape.items():
        whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not whole or size < 1:
            raise ValueError(
                message(
                    "specs",
                    f"mesh axis {axis!r} has size {size!r}",
                    "a positive integer",
                    "Correct the size",
                )
            )
    return dict(mesh_shape)


def _flat(name: str, value: Any, dtype: DTypeLike) -> Iterator[tuple[str, Any]]:
    """The leaves in a value of the JSON text, each with its full name."""
    if isinstance(value, dict) and (
        not name or not isinstance(value.get("shape"), list)
    ):
        for key, inner in value.items():
            yield from _flat(f"{name}/{key}" if name else key, inner, dtype)
        return
    entry = value if isinstance(value, dict) else {"shape": value}
    shape, word = entry["shape"], entry.get("dtype", jnp.dtype(dtype).name)
    sizes = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    try:
        kind = jnp.dtype(word) if isinstance(word, str) else None
    except TypeError:
        kind = None
    if not sizes or kind is None or not set(entry) <= {"shape", "dtype"}:
        raise ValueError(
            message(
                "read_shapes",
                f"{name!r} is {json.dumps(value)}",
                'positive integers [4096, 14336], or {"shape": [...], "dtype": "..."}',
                "Correct that entry",
            )
        )
    yield name, jax.ShapeDtypeStruct(tuple(shape), kind)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the JSON text, whose keys must differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise twice(next(key for key in found if keys.count(key) > 1))
    return found
