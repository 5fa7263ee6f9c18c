# SPDX-License-Identifier: Apache-2.0
"""What the layers of public models hold: shapes by name, which `models` makes trees."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from orthoptax._check import message

Shapes = dict[str, tuple[int, ...]]
"""Shape of each parameter by its name, with the names of Flax."""

Tree = dict[str, Any]
"""Nested dictionaries."""

# Source: config.json of openai-community/gpt2, gpt2-medium, gpt2-large and gpt2-xl.
GPT2 = {  # layers, width
    "gpt2-small": (12, 768),
    "gpt2-medium": (24, 1024),
    "gpt2-large": (36, 1280),
    "gpt2-xl": (48, 1600),
}
GPT2_VOCABULARY, GPT2_POSITIONS = 50257, 1024

# Source: The Llama 3 Herd of Models, arXiv:2407.21783, Table 3; the vocabulary is that
# of config.json in meta-llama/Meta-Llama-3-8B.
LLAMA3 = {  # layers, width, columns of gate and up
    "llama3-8b": (32, 4096, 14336),
    "llama3-70b": (80, 8192, 28672),
    "llama3-405b": (126, 16384, 53248),
}
LLAMA3_VOCABULARY, LLAMA3_KV = 128256, 8 * 128  # heads of key and value, their size


class _DeepSeek(NamedTuple):
    """The sizes of DeepSeek-V3.

    Source: DeepSeek-V3 Technical Report, arXiv:2412.19437, section 4.2; code
    deepseek-ai/DeepSeek-V3, inference/configs/config_671B.json and inference/model.py.
    """

    vocabulary: int = 129280
    width: int = 7168
    dense_layers: int = 3
    moe_layers: int = 58
    mlp: int = 18432
    expert_mlp: int = 2048
    experts: int = 256
    heads: int = 128
    query_rank: int = 1536
    kv_rank: int = 512
    plain: int = 128  # of a head's query and key, beside the rotary part
    rotary: int = 64
    value: int = 128


def gpt2(layers: int, width: int, *, stacked: bool = False) -> Shapes:
    """GPT-2 as its public code has it: biases, fused projection, tied head."""
    linear = {
        "attention/fused_qkv": (width, 3 * width),
        "attention/out": (width, width),
        "mlp/up": (width, 4 * width),
        "mlp/down": (4 * width, width),
    }
    norm = {"scale": (width,), "bias": (width,)}
    layer = {f"{module}/kernel": shape for module, shape in linear.items()}
    layer |= {f"{module}/bias": shape[1:] for module, shape in linear.items()}
    layer |= {f"{m}/{n}": s for m in ("ln_1", "ln_2") for n, s in norm.items()}
    return {
        "wte/embedding": (GPT2_VOCABULARY, width),
        "wpe/embedding": (GPT2_POSITIONS, width),
        **_layers(layer, layers, stacked),
        **{f"ln_f/{name}": shape for name, shape in norm.items()},
    }


def llama3(
    layers: int,
    width: int,
    mlp: int,
    *,
    stacked: bool = False,
) -> Shapes:
    """Llama 3: grouped queries, gated MLP, no biases, a head of its own."""
    layer = {
        "attention_norm/scale": (width,),
        "attention/query/kernel": (width, width),
        "attention/key/kernel": (width, LLAMA3_KV),
        "attention/value/kernel": (width, LLAMA3_KV),
        "attention/out/kernel": (width, width),
        "mlp_norm/scale": (width,),
        **_gated("mlp", width, mlp),
    }
    return _ends(LLAMA3_VOCABULARY, width) | _layers(layer, layers, stacked)


def deepseek_v3(*, stacked: bool = False) -> Shapes:
    """DeepSeek-V3's main model; `models` says what is simplified."""
    c = _DeepSeek()
    attention = {
        "attention_norm/scale": (c.width,),
        "attention/q_a/kernel": (c.width, c.query_rank),
        "attention/q_norm/scale": (c.query_rank,),
        "attention/q_b/kernel": (c.query_rank, c.heads * (c.plain + c.rotary)),
        "attention/kv_a/kernel": (c.width, c.kv_rank + c.rotary),
        "attention/kv_norm/scale": (c.kv_rank,),
        "attention/kv_b/kernel": (c.kv_rank, c.heads * (c.plain + c.value)),
        "attention/out/kernel": (c.heads * c.value, c.width),
        "mlp_norm/scale": (c.width,),
    }
    moe = {
        "mlp/router/kernel": (c.width, c.experts),
        **_gated("mlp/experts", c.width, c.expert_mlp, c.experts),
        **_gated("mlp/shared", c.width, c.expert_mlp),
    }
    dense = attention | _gated("mlp", c.width, c.mlp)
    inside = _layers(dense, c.dense_layers, stacked, within="dense/")
    inside |= _layers(
        attention | moe, c.moe_layers, stacked, within="moe/", first=c.dense_layers
    )
    return _ends(c.vocabulary, c.width) | inside


def _gated(module: str, width: int, mlp: int, *batch: int) -> Shapes:
    """A gated MLP without biases, or a stack of them."""
    wide, narrow = (*batch, width, mlp), (*batch, mlp, width)
    shapes = {"gate": wide, "up": wide, "down": narrow}
    return {f"{module}/{name}/kernel": shape for name, shape in shapes.items()}


def _ends(vocabulary: int, width: int) -> Shapes:
    """Embedding, last norm and untied head."""
    return {
        "embedder/embedding": (vocabulary, width),
        "final_norm/scale": (width,),
        "lm_head/kernel": (width, vocabulary),
    }


def _layers(
    layer: Shapes, count: int, stacked: bool, *, within: str = "", first: int = 0
) -> Shapes:
    """So many equal layers: a stack of them, or each under its number."""
    if stacked:
        return {f"{within}layers/{n}": (count, *shape) for n, shape in layer.items()}
    numbers = range(first, first + count)
    return {f"layers_{i}/{n}": shape for i in numbers for n, shape in layer.items()}


ARCHITECTURES: dict[str, Callable[..., Shapes]] = {
    **{name: functools.partial(gpt2, *sizes) for name, sizes in GPT2.items()},
    **{name: functools.partial(llama3, *sizes) for name, sizes in LLAMA3.items()},
    "deepseek-v3-like": deepseek_v3,
}
"""Each model's shapes by name: fn(*, stacked=False)."""


def nest(leaves: Iterable[tuple[str, Any]]) -> Tree:
    """Leaves by name as nested dictionaries."""
    tree: Tree = {}
    for name, leaf in leaves:
        *path, last = name.split("/")
        node: Any = tree
        for step in path:
            node = node.setdefault(step, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or last in node:
            raise twice(name)
        node[last] = leaf
    return tree


def twice(name: str) -> ValueError:
    """The error of a name that is taken."""
    wrong = f"{name!r} is there twice, as a parameter or as part of one's name"
    action = "Rename one of them"
    return ValueError(message("read_shapes", wrong, "one name a parameter", action))
