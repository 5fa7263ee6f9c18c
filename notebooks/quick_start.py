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
# # Quick start
#
# A small Flax NNX model learns to guess the next byte of Python source, once with AdamW
# and once with Muon. Nothing is downloaded: the text is the standard library's own.

# %%
import argparse
import ast
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import orthoptax

text = b"".join(pathlib.Path(m.__file__).read_bytes() for m in (argparse, ast))
data = np.frombuffer(text, np.uint8)
CONTEXT = 16
windows = np.lib.stride_tricks.sliding_window_view(data, CONTEXT + 1)
train, held_out = windows[:-8192], windows[-8192::8]
len(data)

# %% [markdown]
# ## The model
#
# Embeddings and the head are matrices too, and they are *not* for Muon: their rows are
# one-hot worlds. Their names say what they are.


# %%
class NextByte(nnx.Module):
    """Bytes (batch, CONTEXT) to logits (batch, 256)."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(256, 32, rngs=rngs)
        self.up = nnx.Linear(CONTEXT * 32, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.mix = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, 256, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens).reshape(tokens.shape[0], -1)
        x = nnx.gelu(self.norm(self.up(x)))
        return self.head(x + nnx.gelu(self.mix(x)))


model = NextByte(128, nnx.Rngs(0))
routing = orthoptax.describe(nnx.state(model, nnx.Param))
print(routing)

# %% [markdown]
# The table is worth a look before every long run: `up` and `mix` are matrices, as
# (outputs, inputs); everything else goes to AdamW at the same rate.

# %%
assert {row.name for row in routing.rows if row.view} == {"up/kernel", "mix/kernel"}

# %% [markdown]
# ## Training
#
# One loop for both. The learning rate, the schedule and the data are the same.


# %%
def loss_of(model, tokens):
    logits = model(tokens[:, :-1])
    labels = tokens[:, -1].astype(jnp.int32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@nnx.jit
def step(model, optimizer, tokens):
    loss, grads = nnx.value_and_grad(loss_of)(model, tokens)
    optimizer.update(model, grads)
    return loss


def run(tx, steps=200):
    model = NextByte(128, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    rng, losses = np.random.default_rng(0), []
    for _ in range(steps):
        batch = train[rng.integers(len(train), size=256)]
        losses.append(float(step(model, optimizer, batch)))
    return model, optimizer, losses, float(nnx.jit(loss_of)(model, held_out))


schedule = optax.linear_schedule(1e-2, 0.0, 200)
measured = orthoptax.muon(schedule, after=orthoptax.diagnostics.record())
_, _, adamw_losses, adamw_held_out = run(optax.adamw(schedule, weight_decay=0.0))
model, optimizer, muon_losses, muon_held_out = run(measured)
print(f"held out, nats/byte: AdamW {adamw_held_out:.3f}, Muon {muon_held_out:.3f}")

# %%
figure, axes = plt.subplots(figsize=(5, 3))
for name, losses in (("AdamW", adamw_losses), ("Muon", muon_losses)):
    axes.plot(np.convolve(losses, np.ones(10) / 10, "valid"), label=name)
axes.set(xlabel="step", ylabel="training loss, nats/byte")
axes.legend()
figure.tight_layout()

# %% [markdown]
# ## Was it Muon?
#
# `after=` takes a link of yours inside the compiled step. This one measured, at the
# last step, how orthogonal each direction was, its root-mean-square per unit of the
# learning rate (0.2 is AdamW's), and its size against the weights.

# %%
state = nnx.as_pure(optimizer.opt_state)
for field in ("orthogonality_error", "update_rms", "update_to_weight"):
    values = optax.tree.get(state, field)
    print(f"{field:20}", {k: round(float(v), 3) for k, v in values.items()})
counted = optax.tree.get(state, "orthogonalized"), optax.tree.get(state, "matrices")
print("orthogonalized: {} of {} matrices".format(*counted))

# %%
assert muon_held_out < adamw_held_out
assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), state))
assert int(counted[1]) == 2
