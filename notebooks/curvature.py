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
# # Curvature: several optimizers in one
#
# An estimate of the Hessian's diagonal is made by an *estimator*, on a clock, and used
# by links that divide by it. `with_curvature` holds the three together. Each named
# optimizer carries its own, so one optimizer can hold several, each with its own clock:
# here Muon on the matrices, Sophia-G on embedding and head, AdaHessian on gains and
# biases.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from orthoptax import adahessian, by_layout, muon, on_matrices, sophia_g
from orthoptax.curvature import hutchinson
from orthoptax.layout import on_full_params
from orthoptax.transforms import (
    divide_by_curvature_rms,
    momentum,
    orthogonalize,
    scale_by_learning_rate,
    with_curvature,
)

# %% [markdown]
# ## A model, and what a step tells the optimizer
#
# A next-letter model on a line of text. The optimizer is told the loss of the step as a
# function of the parameters, `obj_fn`, and for Sophia-G the outputs, `logits_fn`, how
# labels are drawn from them, `sample_fn`, and their mean likelihood with its count,
# `nll_fn`. All of them must belong to the batch whose gradient is the update.

# %%
text = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 40, np.uint8)
letters, tokens = np.unique(text, return_inverse=True)
rng, size, width = np.random.default_rng(0), len(letters), 32
draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(width), jnp.float32)
params = {
    "embed": {"embedding": draw(size, width)},
    "hidden": {"kernel": draw(2 * width, 2 * width), "bias": jnp.zeros(2 * width)},
    "norm": {"scale": jnp.ones(2 * width)},
    "head": {"kernel": draw(2 * width, size)},
}


def logits_of(params, pair):
    x = params["embed"]["embedding"][pair].reshape(len(pair), -1)
    x = x + jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return x * params["norm"]["scale"] @ params["head"]["kernel"]


def nll_fn(logits, labels):
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    return nll.mean(), nll.size


def told(params, pair, label):
    logits_fn = lambda p: logits_of(p, pair)
    obj_fn = lambda p: nll_fn(logits_fn(p), label)[0]
    extra = {"obj_fn": obj_fn, "logits_fn": logits_fn, "nll_fn": nll_fn}
    return {**extra, "sample_fn": jax.random.categorical}


# %% [markdown]
# ## Three groups, two clocks
#
# `by_layout` tells matrices from the rest and lets each group call the loss with its
# own leaves. `optax.partition` shows a transform `MaskedNode`s in the place of other
# leaves; with it the functions are wrapped in `on_full_params`.

# %%
labels = {
    "embed": "sophia", "hidden": {"kernel": "muon", "bias": "adahessian"},
    "norm": "adahessian", "head": "sophia",
}  # fmt: skip
groups = {
    "muon": muon(0.02),
    "sophia": sophia_g(3e-3, gamma=0.05, update_every=10, weight_decay=0.0),
    "adahessian": adahessian(0.01, update_every=4),
}
tx = optax.partition(groups, labels)


@jax.jit
def step(params, state, pair, label):
    extra = told(params, pair, label)
    value, grads = jax.value_and_grad(extra["obj_fn"])(params)
    for name in ("obj_fn", "logits_fn"):
        extra[name] = on_full_params(extra[name], params)
    updates, state = tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state, value


def batch():
    at = rng.integers(len(tokens) - 2, size=64)
    return tokens[at[:, None] + np.arange(2)], tokens[at + 2]


state, trained, losses = tx.init(params), params, []
for _ in range(60):
    trained, state, value = step(trained, state, *batch())
    losses.append(float(value))
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
assert losses[-1] < 0.6 * losses[0]

# %% [markdown]
# ## What the state says
#
# Estimates made, estimates dropped because an entry was not finite, and Sophia's
# *win rate*: the fraction of entries that were not clipped, to be kept in 0.1 to 0.5 by
# `gamma`.

# %%
for name in ("sophia", "adahessian"):
    inner = state.inner_states[name].inner_state
    print(name, "steps", int(inner.count), "dropped", int(inner.skipped))
print("win rate", float(optax.tree.get(state.inner_states["sophia"], "win_rate")))
print("estimates of AdaHessian",
      int(state.inner_states["adahessian"].inner_state.estimator.count))  # fmt: skip

# %% [markdown]
# ## Recombined: curvature before orthogonalization
#
# The same links in another order. The momentum is divided by the curvature first, and
# the result made orthogonal; one estimate, every tenth step, serves the whole tree.

# %%
matrix = optax.chain(
    momentum(0.9),
    divide_by_curvature_rms(eps=1e-3),
    on_matrices(orthogonalize()),
    scale_by_learning_rate(0.02),
)
rest = optax.chain(
    momentum(0.9), divide_by_curvature_rms(eps=1e-2), scale_by_learning_rate(1e-3)
)
tx = with_curvature(by_layout(matrix=matrix, rest=rest), hutchinson(2), update_every=10)


@jax.jit
def shared(params, state, pair, label):
    obj_fn = told(params, pair, label)["obj_fn"]
    value, grads = jax.value_and_grad(obj_fn)(params)
    updates, state = tx.update(grads, state, params, obj_fn=obj_fn)
    return optax.apply_updates(params, updates), state, value


state, trained, losses = tx.init(params), params, []
for _ in range(60):
    trained, state, value = shared(trained, state, *batch())
    losses.append(float(value))
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
assert losses[-1] < losses[0]
assert int(state.estimator.count) == 6
