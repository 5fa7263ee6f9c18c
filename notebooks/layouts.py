# SPDX-License-Identifier: Apache-2.0
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Layouts: which parameter is which matrix
#
# An orthogonalized update needs to know, for every parameter, which axes are outputs
# (rows), which are inputs (columns), and which only count matrices. A *layout* says it
# once; no transform takes an axis.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthoptax import MatrixView, describe, flax, muon, on_matrices, rules
from orthoptax.layout import from_optax, to_optax
from orthoptax.matrix import svd
from orthoptax.transforms import orthogonalize

# %% [markdown]
# ## A view of one leaf
#
# Rows are outputs, columns are inputs, everything else is batch. A Flax kernel is
# stored (in, out); an attention kernel (d, heads, head size) is one matrix or one a
# head; the blocks of a fused projection are matrices of their own and may differ.

# %%
views = {
    "dense": (MatrixView(rows=(-1,), cols=(-2,)), (8, 16)),
    "scanned dense": (MatrixView(rows=(-1,), cols=(-2,)), (12, 8, 16)),
    "convolution": (MatrixView(rows=(3,), cols=(0, 1, 2)), (3, 3, 8, 16)),
    "query, one matrix": (MatrixView(rows=(1, 2), cols=(0,)), (8, 2, 4)),
    "query, one a head": (MatrixView(rows=(2,), cols=(0,)), (8, 2, 4)),
    "fused q, k, v": (MatrixView(rows=(-1,), cols=(-2,), blocks=(8, 4, 4)), (8, 16)),
}
for name, (view, shape) in views.items():
    print(f"{name:18} {shape!s:16} -> {view.shapes(shape)}")
assert views["fused q, k, v"][0].shapes((8, 16)) == [(8, 8), (4, 8), (4, 8)]

# %% [markdown]
# ## A layout for a model
#
# `flax()` knows the names of Linen and NNX. Containers called `blocks` or `layers` hold
# scanned layers unless a number follows.

# %%
params = {
    "embed": {"embedding": jnp.ones((50, 8))},
    "blocks": {
        "attn": {"query": {"kernel": jnp.ones((12, 8, 2, 4))}},
        "mlp": {"kernel": jnp.ones((12, 8, 16)), "bias": jnp.ones((12, 16))},
        "norm": {"scale": jnp.ones((12, 8))},
    },
    "head": {"kernel": jnp.ones((8, 50))},
}
print(describe(params))

# %% [markdown]
# ## What could be two things is an error
#
# A three-axis kernel outside those containers may be a scanned layer, a one-dimensional
# convolution or an attention kernel. The message holds the lines to paste.

# %%
odd = {"mixer": {"kernel": jnp.ones((12, 8, 16))}}
try:
    describe(odd)
    raise AssertionError("should have asked")
except ValueError as error:
    print(error)

# %%
print(describe(odd, flax(scan_axis=0)))
print(describe(odd, flax(("mixer/kernel$", MatrixView(rows=(2,), cols=(0, 1))))))

# %% [markdown]
# ## Rules of your own
#
# `rules` takes (pattern, view) pairs; all are tried on every leaf, and they must agree.

# %%
mine = rules(("w$", MatrixView(rows=(-1,), cols=(-2,))), ("(b|gain)$", None))
tree = {"mlp": {"w": jnp.ones((8, 16)), "b": jnp.ones(16)}, "gain": jnp.ones(8)}
print(describe(tree, mine))

# %% [markdown]
# ## Fused equals separate
#
# With the sizes stated, a fused projection moves exactly as its parts would.

# %%
key = jax.random.key(0)
parts = {
    name: jax.random.normal(k, (8, size))
    for (name, size), k in zip(
        {"q": 8, "k": 4, "v": 4}.items(), jax.random.split(key, 3), strict=True
    )
}
fused = {"qkv": {"kernel": jnp.concatenate(list(parts.values()), axis=-1)}}
separate = {name: {"kernel": x} for name, x in parts.items()}


def direction(tree, layout):
    tx = on_matrices(orthogonalize(), layout=layout)
    return tx.update(tree, tx.init(tree))[0]


together = direction(fused, flax(fused={"qkv": (8, 4, 4)}))["qkv"]["kernel"]
apart = direction(separate, flax())
apart = jnp.concatenate([apart[name]["kernel"] for name in parts], axis=-1)
print("largest difference:", float(jnp.abs(together - apart).max()))
np.testing.assert_allclose(together, apart, atol=1e-6)

# %% [markdown]
# As one matrix it would be another update:

# %%
whole = direction(fused, rules(("", MatrixView((-1,), (-2,)))))["qkv"]["kernel"]
print("largest difference:", float(jnp.abs(together - whole).max()))
assert float(jnp.abs(together - whole).max()) > 0.1

# %% [markdown]
# ## To and from optax
#
# `optax.contrib.muon` can be told the same routing, and its trees are layouts here.

# %%
numbers = to_optax(params, flax())
theirs = optax.contrib.muon(1e-3, muon_weight_dimension_numbers=numbers)
print(numbers["blocks"]["mlp"]["kernel"], numbers["head"]["kernel"])
assert describe(params, from_optax(numbers)).rows[0].view is not None

# %% [markdown]
# ## In use
#
# Every optimizer takes `layout=`; without it, `flax()`.

# %%
tx = muon(1e-3, layout=flax(), polar=svd())
grads = jax.tree.map(lambda p: jax.random.normal(key, p.shape), params)
updates, _ = tx.update(grads, tx.init(params), params)
kernel = updates["blocks"]["mlp"]["kernel"] / (1e-3 * 0.2 * 16**0.5)
singular_values = jnp.linalg.svd(kernel, compute_uv=False)
np.testing.assert_allclose(singular_values, 1.0, atol=1e-4)
singular_values.shape
