# SPDX-License-Identifier: Apache-2.0
"""A byte-level transformer in Flax NNX whose layers are stacked and scanned.

Parameters, with the layer axis first in `blocks`:

    embed/embedding          (vocabulary, width)
    pos_embed/embedding      (length, width)
    blocks/{q,k,v,o}/kernel  (layers, width, width)
    blocks/up/kernel         (layers, width, 4 width)     blocks/down/kernel back
    blocks/norm{1,2}/scale   (layers, width)              norm/scale (width,)
    head/kernel              (width, vocabulary), unless tied to the embedding
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from orthoptax.train.config import unknown


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and the batch it is trained on."""

    width: int
    layers: int
    heads: int
    length: int
    batch: int
    vocabulary: int = 256
    tied: bool = False
    dtype: str = "float32"  # of the activations; parameters are float32
    validation: int = 16  # batches
    learning_rates: tuple[float, ...] = (5e-3, 1e-2, 2e-2, 4e-2)


SHAPES = {
    "tiny": Shape(width=64, layers=2, heads=4, length=128, batch=8),
    # Wide for so few tokens: the classic polar kernel costs as much as a gradient.
    "wide": Shape(
        width=256,
        layers=2,
        heads=4,
        length=128,
        batch=8,
        learning_rates=(2.5e-3, 5e-3, 1e-2),
    ),
    # GPT-2 small. The vocabulary keeps its size, though bytes use 256 rows of it, so
    # that parameters, memory and step times are those of the model it is named after.
    "124m": Shape(
        width=768,
        layers=12,
        heads=12,
        length=1024,
        batch=16,
        vocabulary=50304,
        tied=True,
        dtype="bfloat16",
        learning_rates=(3e-4, 8e-4, 2e-3, 5e-3),
    ),
}


def shape(name: str) -> Shape:
    """The preset of that name. Raises UsageError for any other."""
    if name not in SHAPES:
        raise unknown("model", name, SHAPES, "--model")
    return SHAPES[name]


class Block(nnx.Module):
    """Pre-norm attention and a GELU layer of four times the width."""

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs):
        d = shape.width

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(
                inputs, outputs, use_bias=False, dtype=shape.dtype, rngs=rngs
            )

        self.heads = shape.heads
        self.norm1 = nnx.RMSNorm(d, dtype=shape.dtype, rngs=rngs)
        self.norm2 = nnx.RMSNorm(d, dtype=shape.dtype, rngs=rngs)
        self.q, self.k, self.v, self.o = (linear(d, d) for _ in range(4))
        self.up, self.down = linear(d, 4 * d), linear(4 * d, d)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm1(x)
        q, k, v = (
            part(y).reshape(*x.shape[:2], self.heads, -1)
            for part in (self.q, self.k, self.v)
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Maps (batch, length) bytes to (batch, length, vocabulary) float32 logits."""

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=shape.layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(shape, rngs=rngs)

        d, dtype = shape.width, shape.dtype
        self.embed = nnx.Embed(shape.vocabulary, d, dtype=dtype, rngs=rngs)
        self.pos_embed = nnx.Embed(shape.length, d, dtype=dtype, rngs=rngs)
        self.blocks = stack(rngs)
        self.norm = nnx.RMSNorm(d, dtype=dtype, rngs=rngs)
        if not shape.tied:
            self.head = nnx.Linear(
                d, shape.vocabulary, use_bias=False, dtype=dtype, rngs=rngs
            )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def layers(x: jax.Array, block: Block) -> jax.Array:
            return block(x)

        tokens = tokens.astype(jnp.int32)
        x = self.embed(tokens) + self.pos_embed(jnp.arange(tokens.shape[1]))
        x = self.norm(layers(x, self.blocks))
        head = self.head if hasattr(self, "head") else self.embed.attend
        return head(x).astype(jnp.float32)


def initial(shape: Shape, seed: jax.typing.ArrayLike) -> optax.Params:
    """The initial weights of a seed: a tree of plain dictionaries and arrays."""
    model = Transformer(shape, rngs=nnx.Rngs(jax.random.key(seed)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def logits_function(shape: Shape):
    """Returns `logits(params, tokens)` of all but the last of (batch, length + 1)."""
    model = nnx.eval_shape(lambda: Transformer(shape, rngs=nnx.Rngs(0)))
    graph = nnx.graphdef(model)
    return lambda params, tokens: nnx.merge(graph, params)(tokens[:, :-1])


def loss_function(shape: Shape):
    """Returns `loss(params, tokens)`, mean nats a byte; tokens (batch, length + 1)."""
    logits_of = logits_function(shape)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        labels = tokens[:, 1:].astype(jnp.int32)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits_of(params, tokens), labels
        )
        return losses.mean()

    return loss


def parameter_count(shape: Shape) -> int:
    """The number of parameters, without making them."""
    params = jax.eval_shape(lambda: initial(shape, 0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))
