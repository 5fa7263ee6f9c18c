# SPDX-License-Identifier: Apache-2.0
"""The transformer: names, shapes, counts, causality, and the wide model lowered."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from orthoptax.train import data, loop, models, names, tasks
from orthoptax.train.config import UsageError

TINY = models.SHAPES["tiny"]
WIDE = models.SHAPES["124m"]


def leaves(shape):
    params = jax.eval_shape(lambda: models.initial(shape, 0))
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in flat
    }


def test_names_and_shapes():
    shapes = {name: leaf.shape for name, leaf in leaves(TINY).items()}
    square = {f"blocks/{part}/kernel": (2, 64, 64) for part in "qkvo"}
    assert shapes == square | {
        "embed/embedding": (256, 64),
        "pos_embed/embedding": (128, 64),
        "blocks/up/kernel": (2, 64, 256),
        "blocks/down/kernel": (2, 256, 64),
        "blocks/norm1/scale": (2, 64),
        "blocks/norm2/scale": (2, 64),
        "norm/scale": (64,),
        "head/kernel": (64, 256),
    }


def test_tiny_has_140_thousand_parameters_and_1024_bytes_a_step():
    assert models.parameter_count(TINY) == pytest.approx(140_000, rel=0.01)
    assert TINY.batch * TINY.length == 1024


def test_124m_is_gpt2_small_with_float32_parameters():
    assert models.parameter_count(WIDE) == pytest.approx(124.3e6, rel=0.002)
    wide = leaves(WIDE)
    assert wide["blocks/up/kernel"].shape == (12, 768, 3072)
    assert wide["embed/embedding"].shape == (50304, 768)
    assert "head/kernel" not in wide
    assert {str(leaf.dtype) for leaf in wide.values()} == {"float32"}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_124m_step_lowers_with_bfloat16_products(name):
    constructor = names.constructors([name])[name]
    task = tasks.text(WIDE, data.split([bytes(range(256)) * 200]))
    text = loop.lower(task, constructor, 250, 25).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    model = [d for d in dots if re.search(r"16x1024x(768|3072|50304)", d)]
    assert len(model) >= 3 * 7  # forward and two backward products, seven kernels
    assert all("bf16" in line for line in model)


def test_initial_weights_depend_on_the_seed_alone():
    first, again, other = (models.initial(TINY, seed) for seed in (0, 0, 1))
    equal = jax.tree.map(np.array_equal, first, again)
    assert all(jax.tree.leaves(equal))
    assert not np.array_equal(first["head"]["kernel"], other["head"]["kernel"])
    layers = np.asarray(first["blocks"]["q"]["kernel"])
    assert not np.array_equal(layers[0], layers[1])


def test_loss_starts_near_that_of_a_uniform_guess():
    tokens = np.random.default_rng(0).integers(256, size=(8, 129), dtype=np.uint8)
    loss = models.loss_function(TINY)(models.initial(TINY, 0), jnp.asarray(tokens))
    assert math.log(256) - 0.1 < loss < math.log(256) + 1


def test_no_byte_sees_a_later_one():
    model = models.Transformer(TINY, rngs=nnx.Rngs(0))
    tokens = jnp.arange(16, dtype=jnp.uint8)[None]
    before, after = model(tokens), model(tokens.at[0, 9].set(200))
    assert np.array_equal(before[0, :9], after[0, :9])
    assert np.all(np.any(before[0, 9:] != after[0, 9:], axis=-1))


def test_an_unknown_model_lists_the_known():
    with pytest.raises(UsageError, match=r"model '124M' is unknown\. Expected one of"):
        models.shape("124M")


def test_rate_rises_and_falls_once():
    factors = np.asarray(jax.vmap(lambda s: loop.rate_factor(s, 50))(jnp.arange(50)))
    assert np.argmax(factors) == 4
    assert factors[4] == 1.0
    assert factors[0] == pytest.approx(0.2)
    assert factors[-1] == pytest.approx(1 / 45)
    assert np.all(np.diff(factors[:5]) > 0)
    assert np.all(np.diff(factors[5:]) < 0)


def test_one_compilation_serves_rates_and_a_shorter_last_interval():
    shape = dataclasses.replace(
        TINY, width=16, layers=2, heads=2, length=8, batch=2, validation=1
    )
    task = tasks.text(shape, data.split([bytes(range(200))]))
    trainer, _ = loop.trainer(task, names.adamw, 5, 3, loop.evaluator(task))
    batches = np.zeros((3, 2, 9), np.uint8)
    moved = []
    for rate in (0.0, 0.1):
        state = trainer.initial(0)
        before = np.asarray(state.params["head"]["kernel"])
        state, _ = trainer.train(state, jnp.float32(rate), batches, jnp.int32(2))
        assert int(state.step) == 2
        assert int(optax.tree.get(state.opt_state, "count")) == 2
        moved.append(np.abs(state.params["head"]["kernel"] - before).max())
    assert moved[0] == 0
    assert moved[1] > 0.05
