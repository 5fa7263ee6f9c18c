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
# # Sharding: many devices, one optimizer
#
# A model too large for one device is cut: each device keeps a part of every weight. An
# elementwise optimizer such as AdamW does not mind. An orthogonalized update needs the
# *whole* matrix, and a compiler left to itself moves every matrix many times.
#
# Here a small Flax NNX transformer is trained on eight devices by data parallelism,
# FSDP and tensor parallelism at once; a `place` keeps the update to one exchange there
# and one back; a checkpoint goes from eight devices to four, to one, and back to eight.
#
# The eight devices are fake, so that this runs on any machine. The line that makes them
# comes first, before anything has touched a device; on real ones, leave it out.

# %%
import jax

jax.config.update("jax_num_cpu_devices", 8)

import argparse
import ast
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import orthoptax
from orthoptax.sharding import count, whole_matrices
from orthoptax.sharding.parts import in_parts
from orthoptax.sharding.planning.models import specs as specs_for
from orthoptax.sharding.state import state_specs

text = b"".join(pathlib.Path(m.__file__).read_bytes() for m in (argparse, ast))
data = np.frombuffer(text, np.uint8)
windows = np.lib.stride_tricks.sliding_window_view(data, 33)
len(jax.devices()), len(data)

# %% [markdown]
# ## The model
#
# An ordinary transformer; nothing in it knows of devices. `loss_of` and `initial` are
# functions of a plain tree of parameters, which is all that the rest of the page needs.

# %%
WIDTH, HEADS = 32, 4


class Block(nnx.Module):
    def __init__(self, rngs):
        linear = lambda m, n: nnx.Linear(m, n, use_bias=False, rngs=rngs)
        self.norm1, self.norm2 = (nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2))
        self.q, self.k, self.v, self.o = (linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = linear(WIDTH, 4 * WIDTH), linear(4 * WIDTH, WIDTH)

    def __call__(self, x):
        y = self.norm1(x)
        heads = [
            f(y).reshape(*y.shape[:2], HEADS, -1) for f in (self.q, self.k, self.v)
        ]
        mixed = jax.nn.dot_product_attention(*heads, is_causal=True)
        x = x + self.o(mixed.reshape(x.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(256, WIDTH, rngs=rngs)
        self.block = Block(rngs)
        self.head = nnx.Linear(WIDTH, 256, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.block(self.embed(tokens)))


def initial():
    return nnx.to_pure_dict(nnx.state(Transformer(nnx.Rngs(0)), nnx.Param))


graph = nnx.graphdef(nnx.eval_shape(lambda: Transformer(nnx.Rngs(0))))


def loss_of(params, tokens):
    tokens = tokens.astype(jnp.int32)
    logits = nnx.merge(graph, params)(tokens[:, :-1])
    labels = tokens[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# %% [markdown]
# ## A mesh, and where the parameters lie
#
# A mesh gives the devices names, here two along each of three axes:
#
# * `dp`: copies of the model, each with examples of its own;
# * `fsdp`: likewise, but the weights are cut and gathered when needed;
# * `tp`: each device works out a part of every layer.
#
# One `PartitionSpec` a parameter says which mesh axis cuts which of its axes.
# `specs_for` writes the usual ones from the names of the modules; a tree written by
# hand is as good.


# %%
def mesh_of(dp, fsdp, tp, kind=AxisType.Auto):
    devices = jax.devices()[: dp * fsdp * tp]
    sizes, axes = (dp, fsdp, tp), ("dp", "fsdp", "tp")
    return jax.make_mesh(sizes, axes, (kind,) * 3, devices=devices)


def specs_of(mesh):
    specs = specs_for(shapes, dict(mesh.shape))
    specs["embed"]["embedding"] = PartitionSpec("tp")  # its gradient then stays put
    return specs


mesh = mesh_of(dp=2, fsdp=2, tp=2)
shapes = jax.eval_shape(initial)
specs = specs_of(mesh)
specs["block"]

# %% [markdown]
# ## A training step
#
# The optimizer is given a *place*: `whole_matrices(specs, mesh=mesh)` shares all
# matrices out over the devices, works on whole ones, and sends the results back.
# Nothing else in the step is about sharding; batches are cut over `dp` and `fsdp`,
# parameters lie as the specs say, and jit does the rest.
#
# `state_specs` says where an optimizer's state lies (momentum as its parameter), so
# that parameters and state are created in place: no device ever holds all of them.


# %%
def shardings_of(tx, mesh):
    both = specs_of(mesh), state_specs(tx, shapes, specs_of(mesh), mesh=mesh)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), both)


def training(tx, mesh):
    """(init, step): a pair of compiled functions whose arrays lie as told."""
    where = shardings_of(tx, mesh)
    batch = NamedSharding(mesh, PartitionSpec(("dp", "fsdp")))

    def init():
        params = initial()
        return params, tx.init(params)

    def step(params, state, tokens):
        loss, grads = jax.value_and_grad(loss_of)(params, tokens)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    into, out = (*where, batch), (*where, None)
    init = jax.jit(init, out_shardings=where)
    return init, jax.jit(step, in_shardings=into, out_shardings=out)


def batch(step):
    return windows[np.random.default_rng(step).integers(len(windows), size=16)]


def train(step, params, state, steps):
    losses = []
    for i in steps:
        params, state, loss = step(params, state, batch(i))
        losses.append(float(loss))
    return params, state, losses


tx = orthoptax.muon(0.02, place=whole_matrices(specs, mesh=mesh))
init, step = training(tx, mesh)
params, state = init()
compiled = step.lower(params, state, batch(0)).compile()
params, state, losses = train(compiled, params, state, range(20))
kernel = params["block"]["up"]["kernel"]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
print("of", kernel.shape, "each device holds", kernel.addressable_shards[0].data.shape)
assert losses[-1] < losses[0] - 1

# %% [markdown]
# ## What the update moves
#
# `count` reads a compiled program and adds up its collectives: how often devices talk,
# and how many bytes each receives as results. Here the update alone, with a place and
# without one. Both give the same numbers; the second is what the compiler makes of it,
# on a large model hours of a pod. Count before a long run: a forgotten place does not
# show in the loss.


# %%
def cost(tx):
    where = shardings_of(tx, mesh)
    update = jax.jit(tx.update, in_shardings=(*where, where[0]), out_shardings=where)
    state = jax.eval_shape(tx.init, shapes)
    return count(update.lower(shapes, state, shapes).compile())


placed, left_alone = cost(tx), cost(orthoptax.muon(0.02))
for name, counted in (("with a place", placed), ("without", left_alone)):
    print(f"{name:13} {counted.number:4} collectives, {counted.result_bytes:9,} bytes")
print(placed)  # its table
assert placed.number <= 12
assert placed.result_bytes < left_alone.result_bytes / 4

# %% [markdown]
# ## Explicit axes: nothing to pass
#
# Axes may also be `Explicit`: an array's type then says how it is cut, and the
# optimizer sees it. No place, no specs, the same exchange.

# %%
explicit = mesh_of(dp=2, fsdp=2, tp=2, kind=AxisType.Explicit)
put = lambda x, spec: jax.device_put(x, NamedSharding(explicit, spec))
cut = jax.tree.map(put, params, specs)
plain = orthoptax.muon(0.02)
with jax.set_mesh(explicit):
    updates, _ = jax.jit(plain.update)(cut, plain.init(cut), cut)
found = updates["block"]["up"]["kernel"]
print(jax.typeof(found))
assert found.sharding.spec == specs["block"]["up"]["kernel"]

# %% [markdown]
# ## Checkpoints that fit any mesh
#
# A checkpoint holds whole arrays, so it can be read onto any number of devices: make
# the optimizer anew with the specs of the new mesh, and tell orbax where everything is
# to lie. Below, a run goes from eight devices to four, to one, and back to eight, two
# steps on each, and does what the uninterrupted run does.
#
# Dion takes another place. Its products with a few columns can be summed over the mesh,
# so its matrices stay where they are: `in_parts`.

# %%
optimizers = {
    "Muon": lambda **at: orthoptax.muon(0.01, place=whole_matrices(**at)),
    "NorMuon": lambda **at: orthoptax.normuon(0.01, place=whole_matrices(**at)),
    "Dion": lambda **at: orthoptax.dion(0.01, rank_fraction=0.25, place=in_parts(**at)),
}
meshes = {"8": mesh, "4": mesh_of(1, 2, 2), "1": mesh_of(1, 1, 1)}


def save(path, params, state):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, (params, state))


def restore(path, tx, mesh):
    like = shapes, jax.eval_shape(tx.init, shapes)
    where = shardings_of(tx, mesh)
    struct = lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, jax.tree.map(struct, like, where))


def compare(make, folder):
    """(losses of one run on eight devices, those of the run that moves)."""
    txs = {n: make(specs=specs_of(mesh), mesh=mesh) for n, mesh in meshes.items()}
    made = {n: training(txs[n], mesh) for n, mesh in meshes.items()}
    init, step = made["8"]
    *_, whole = train(step, *init(), range(8))
    params, state, moved = train(step, *init(), range(2))
    for hop, name in enumerate("418"):
        save(folder / str(hop), params, state)
        params, state = restore(folder / str(hop), txs[name], meshes[name])
        steps = range(2 * hop + 2, 2 * hop + 4)
        params, state, losses = train(made[name][1], params, state, steps)
        moved += losses
    return np.asarray(whole), np.asarray(moved)


for name, make in optimizers.items():
    with tempfile.TemporaryDirectory() as folder:
        whole, moved = compare(make, pathlib.Path(folder))
    print(f"{name:8}", moved.round(3), "differs by", abs(whole - moved).max())
    np.testing.assert_allclose(moved, whole, rtol=1e-4)

# %% [markdown]
# ## Where to go from here
#
# * `python -m orthoptax plan --model llama3-8b --mesh fsdp=64,tp=8 --hardware v5p` says
#   what the update of a large model costs, before there is a machine.
# * `python -m orthoptax compare --mesh fsdp=4,tp=2` compares optimizers on a mesh.
