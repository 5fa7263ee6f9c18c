# SPDX-License-Identifier: Apache-2.0
"""The names that the ready tables know modules by, and patterns made of names."""

import re
from collections.abc import Iterable

HEADS = (
    "head", "lm_head", "output_head", "logits", "logits_dense", "unembed",
    "unembedding", "classifier", "output_layer",
)  # fmt: skip
"""Modules that map features to classes or tokens, and so go to the other optimizer."""

SCANNED = ("blocks", "layers", "scanned_blocks", "scanned_layers")
"""Containers whose leaves carry a layer axis, unless a number follows the name."""

EXPERTS = ("experts",)
"""Containers whose leaves carry an expert axis before those of the unstacked leaf."""

QKV = ("qkv", "qkv_proj", "query_key_value")
"""Fused query, key and value; kernels (d, 3, heads, hd) where they have four axes."""

FUSED = (
    *QKV, "c_attn", "in_proj", "kv", "kv_proj", "gate_up", "gate_up_proj",
    "dense_i", "dense_h",  # the gates of Flax NNX's recurrent cells
)  # fmt: skip
"""Projections whose rows hold several matrices, whose sizes must be said."""

QUERIES = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v")
"""Attention projections, (d, heads, hd) where they have three axes."""

OUTPUTS = ("out", "out_proj", "o_proj", "o", "attn_out")
"""Attention outputs, (heads, hd, d) where they have three axes."""

CONVOLUTION = r"(^|/)[^/]*[Cc]onv[^/]*/"
"""Pattern: a module with 'conv' in its name, directly above the leaf that follows."""

EMBEDDING = r"(^|/)([^/]*[Ee]mbed[^/]*|([^/]*_)?emb|wte|wpe|tok|tokens?)"
"""Pattern: a module or a leaf whose name says that it is an embedding."""


def component(names: Iterable[str]) -> str:
    """Pattern: one of these names begins a component of the path.

    Example:
      >>> bool(re.search(component(["head"]) + "/kernel$", "lm/head/kernel"))
      True
    """
    return rf"(^|/)({'|'.join(re.escape(n) for n in names)})"


def container(names: Iterable[str]) -> str:
    """Pattern: inside a container of one of these names, not in its numbered items."""
    return component(names) + r"/(?!\d+(/|$))"


def numbered(names: Iterable[str]) -> str:
    """Pattern: in an item of such a container, 'blocks/0/' or 'blocks_0/'."""
    return component(names) + r"[/_]\d+(/|$)"


def either(*patterns: str | None) -> str:
    """Pattern: any of these; None among them are left out."""
    return "|".join(f"(?:{p})" for p in patterns if p is not None)
