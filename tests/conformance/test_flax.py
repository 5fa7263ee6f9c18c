# SPDX-License-Identifier: Apache-2.0
"""Flax models, Linen and NNX, trained by the loops that Flax documents."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

from tests.conformance.discovery import is_optimizer, law, parts, sample


@functools.cache
def data():
    """Inputs and the outputs of a random teacher."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(32, 8)), jnp.float32)
    return x, jnp.tanh(x @ jnp.asarray(rng.normal(size=(8, 2)), jnp.float32))


def told(outputs, y, value):
    """What `update` may ask for; the loss is minus a log-likelihood (variance 1/2)."""
    loss = lambda params: jnp.mean((outputs(params) - y) ** 2)
    return {
        "value": value,
        "obj_fn": loss,
        "grad_fn": jax.grad(loss),
        "logits_fn": outputs,
        "sample_fn": lambda key, o: o + jax.random.normal(key, o.shape) / 2**0.5,
        "nll_fn": lambda o, labels: (jnp.mean((o - labels) ** 2), o.size),
    }


class Linen(nn.Module):
    """Two layers, one a matrix and one the head; sharding metadata on the matrix."""

    @nn.compact
    def __call__(self, x):
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "x"))
        x = nn.tanh(nn.Dense(16, kernel_init=boxed)(x))
        return nn.Dense(2, name="head")(x)


class Nnx(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(8, 16, rngs=rngs)
        self.head = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.dense(x)))


@law(is_optimizer, fast=parts)
def test_linen_train_state_learns(subject):
    x, y = data()
    model = Linen()
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(0), x)["params"],
        tx=subject.calm,
    )

    @jax.jit
    def run(state):
        def step(state, _):
            outputs = lambda params: state.apply_fn({"params": params}, x)
            loss = lambda params: jnp.mean((outputs(params) - y) ** 2)
            value, grads = jax.value_and_grad(loss)(state.params)
            return applied(subject, state, grads, told(outputs, y, value)), value

        return jax.lax.scan(step, state, length=60)[1]

    losses = run(state)
    assert losses[-1] < 0.5 * losses[0]


def applied(subject, state, grads, extra):
    """The state after a step; `apply_gradients` passes on no extra arguments."""
    if not subject.needs:
        return state.apply_gradients(grads=grads)
    updates, inner = state.tx.update(grads, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=inner)


@law(is_optimizer, fast=parts)
def test_nnx_optimizer_learns(subject):
    x, y = data()
    model = Nnx(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, subject.calm, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - y) ** 2))(model)
        graph = nnx.graphdef(model)
        extra = told(lambda params: nnx.merge(graph, params)(x), y, value)
        optimizer.update(model, grads, **{n: extra[n] for n in subject.needs})
        return value

    losses = [step(model, optimizer) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@law(fast=sample)
def test_state_is_the_same_for_boxed_and_bare_leaves(subject):
    # Flax boxes leaves in `init` that are bare in `update`, or the other way round.
    tx = subject.transform
    boxed = nnx.state(Nnx(nnx.Rngs(0)), nnx.Param)
    bare = nnx.to_pure_dict(boxed)
    linen = jax.eval_shape(Linen().init, jax.random.key(0), data()[0])["params"]
    for params in (boxed, bare, linen):
        state = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(tx.update, params, state, params)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
    leaves = lambda tree: [x.shape for x in jax.tree.leaves(tree)]
    assert leaves(jax.eval_shape(tx.init, boxed)) == leaves(
        jax.eval_shape(tx.init, bare)
    )
    assert optax.tree.get(state, "unheard_of") is None
