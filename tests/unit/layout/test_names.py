# SPDX-License-Identifier: Apache-2.0
import dataclasses
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from orthoptax.layout.leaves import parameters
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.layout.wrap import by_layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Dense:
    kernel: jax.Array
    bias: jax.Array


class Pair(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


X = jnp.ones((2, 3))
B = jnp.ones(3)


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"a": {"kernel": X}, "b": [B, X]}, ["a/kernel", "b/0", "b/1"]),
        ({"l": Dense(X, B)}, ["l/kernel", "l/bias"]),
        ({"l": Pair(X, B)}, ["l/kernel", "l/bias"]),
        ((X, {"w": B}), ["0", "1/w"]),
        ({"mlp/~/linear_0": {"w": X}}, ["mlp/~/linear_0/w"]),
        (X, [""]),
    ],
)
def test_any_pytree_has_names_in_its_own_order(tree, names):
    assert list(named_leaves(tree)) == names


def test_an_equinox_module_has_the_names_of_its_fields():
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    assert list(named_leaves(eqx.filter(model, eqx.is_inexact_array))) == [
        "layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias",
    ]  # fmt: skip


def test_a_partitioned_box_does_not_show_in_the_name():
    boxed = {"dense": {"kernel": nn.Partitioned(X, ("in", "out"))}}
    assert list(named_leaves(boxed)) == ["dense/kernel"]


def test_a_layer_called_value_survives():
    assert list(named_leaves({"attn": {"value": {"kernel": X}}})) == [
        "attn/value/kernel"
    ]
    assert list(named_leaves({"attn": {"value": X}})) == ["attn/value"]


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(
        ValueError, match=r"both called 'a/b'\. Expected one name.*Rename"
    ):
        named_leaves({"a": {"b": X}, "a/b": X})


class Model(nnx.Module):
    def __init__(self, rngs):
        self.value = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(3, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.value(x))


def test_nnx_shows_the_same_names_in_init_and_in_update():
    seen = {"init": [], "update": []}

    def layout(when):
        def note(updates, state, params=None, **extra):
            del params, extra
            seen[when].extend(named_leaves(updates))
            return updates, state

        return note

    spy = optax.GradientTransformation(
        lambda p: layout("init")(p, optax.EmptyState())[1], layout("update")
    )
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, by_layout(matrix=spy, rest=spy), wrt=nnx.Param)
    grads = nnx.grad(lambda m: jnp.sum(m(jnp.ones((1, 2))) ** 2))(model)
    optimizer.update(model, grads)
    assert seen["init"] == ["value/kernel", "norm/bias", "norm/scale", "value/bias"]
    assert seen["update"] == seen["init"]


def test_variables_and_bare_arrays_have_the_same_names():
    state = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    bare = nnx.to_pure_dict(state)
    assert list(named_leaves(state)) == list(named_leaves(bare))
    assert "value/kernel" in named_leaves(state)


def test_map_named_keeps_the_tree():
    tree = {"a": Dense(X, B)}
    out = map_named(lambda name, x: (name, x.shape), tree)
    assert out == {"a": Dense(("a/kernel", (2, 3)), ("a/bias", (3,)))}


def test_leaves_that_are_no_arrays_are_refused():
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    with pytest.raises(
        TypeError, match=r"'activation' is a .*Expected arrays.*eqx.filter\(model"
    ):
        parameters(model)


def test_integer_leaves_are_refused():
    with pytest.raises(
        TypeError, match=r"'step' of shape \(\) has dtype int32\. Expected a floating"
    ):
        parameters({"step": jnp.int32(0)})
