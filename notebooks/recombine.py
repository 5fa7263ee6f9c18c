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
# # Recombine: an ablation in ten lines
#
# Every named optimizer here is one chain of links, and a link does not know its
# neighbours. So AdaGO's step size can be put on Dion's direction, or NorMuon's
# normalization after ROOT's threshold, without a line of new mathematics. Here six
# chains are compared on handwritten digits.

# %%
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from orthoptax import by_layout, on_matrices
from orthoptax.transforms import (
    adagrad_norm,
    error_feedback,
    keep_norm,
    low_rank,
    momentum,
    normalize_neurons,
    orthogonalize,
    scale_by_learning_rate,
    scale_by_shape,
    soft_threshold,
    spectral_norm,
    with_statistics,
)

# %% [markdown]
# ## The ten lines
#
# Elementwise links stand in parameter coordinates, matrix links inside `on_matrices`.
# `with_statistics` hands the raw gradient to those links of a chain that measure it.

# %%
polar, shaped = orthogonalize(), scale_by_shape()
threshold, evened = soft_threshold(), keep_norm(normalize_neurons())
dion = error_feedback(0.95, on_matrices(low_rank(0.25)))  # a quarter of the rank
chains = {
    "Muon": [momentum(), on_matrices(polar, shaped)],
    "NorMuon": [momentum(), on_matrices(polar, evened, shaped)],
    "ROOT": [momentum(), on_matrices(threshold, polar, shaped)],
    "NorMuon after ROOT": [momentum(), on_matrices(threshold, polar, evened, shaped)],
    "Dion": [dion, on_matrices(scale_by_shape(spectral_norm))],
    "Dion, AdaGO's step": [with_statistics(dion, on_matrices(adagrad_norm()))],
}

# %% [markdown]
# ## The data and the model
#
# The head is no matrix for Muon, and its name says so. What is no matrix goes to AdamW.

# %%
digits = load_digits()
data = jnp.asarray(digits.data / 8 - 1, jnp.float32), jnp.asarray(digits.target)
held_out = np.arange(len(digits.target)) % 5 == 0
train, test = ([x[part] for x in data] for part in (~held_out, held_out))


class Perceptron(nn.Module):
    """Pixels (batch, 64) to logits (batch, 10)."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(64, name="up")(x))
        x = nn.gelu(nn.Dense(64, name="mix")(x))
        return nn.Dense(10, name="head")(x)


model = Perceptron()


def loss_of(params, batch):
    logits = model.apply(params, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


# %% [markdown]
# ## All rates and all seeds are one program
#
# Links are pure functions and the learning rate may be traced, so a grid is a loop over
# one compiled training run, or a `vmap` on an accelerator. (On CPU a `vmap` would batch
# Dion's QR, and jaxlib 0.10.2's batched LAPACK calls can wait for each other forever.)

# %%
STEPS, BATCH = 150, 60
rates = np.geomspace(1e-3, 1e-1, 7, dtype=np.float32)
seeds = np.arange(3)


def final_loss(links, rate, seed):
    schedule = optax.cosine_decay_schedule(rate, STEPS)
    matrix = optax.chain(*links, scale_by_learning_rate(schedule))
    tx = by_layout(matrix=matrix, rest=optax.adamw(schedule, weight_decay=0.0))
    key = jax.random.key(seed)
    params = model.init(key, train[0][:1])

    def step(carry, key):
        params, state = carry
        batch = jax.tree.map(lambda x: jax.random.choice(key, x, (BATCH,)), train)
        updates, state = tx.update(jax.grad(loss_of)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(key, STEPS)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    return loss_of(params, test)


def sweep(links):
    run = functools.partial(final_loss, links)
    grid = lambda rate: jax.lax.map(functools.partial(run, rate), seeds)
    return np.asarray(jax.jit(functools.partial(jax.lax.map, grid))(rates))


losses = {name: sweep(links) for name, links in chains.items()}  # (rates, seeds) each

# %% [markdown]
# ## What came out
#
# Each chain at its best rate; the spread is over the seeds. Three seeds of a small task
# tell large differences from none, and nothing finer: `make ablate` takes more seeds
# and says which differences are shown, with confidence intervals.

# %%
for name, found in losses.items():
    best = found.mean(axis=1).argmin()
    loss = f"{found[best].mean():.4f} +- {found[best].std(ddof=1):.4f}"
    edge = " (end of the grid)" if best in (0, len(rates) - 1) else ""
    print(f"{name:20} rate {rates[best]:.4f}, held out {loss}{edge}")

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for name, found in losses.items():
    axes.loglog(rates, found.mean(axis=1), marker="o", label=name)
axes.set(xlabel="learning rate", ylabel="held-out loss, nats/example")
axes.legend(fontsize=7)
figure.tight_layout()

# %% [markdown]
# ## Without Python
#
# The command line takes the same chains as text and wraps the matrix links by itself:
#
# ```console
# $ python -m orthoptax compare --optimizers adamw muon \
#     "with_statistics(error_feedback(0.95, low_rank(0.25)) | adagrad_norm)"
# $ python -m orthoptax ablate --base normuon \
#     --replace "momentum -> momentum | soft_threshold"
# ```

# %%
guess = np.log(10)
assert all(np.isfinite(found.mean(axis=1)).any() for found in losses.values())
assert all(np.nanmin(found.mean(axis=1)) < guess / 4 for found in losses.values())
