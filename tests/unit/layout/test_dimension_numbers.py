# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

from orthoptax.layout.dimension_numbers import from_optax, to_optax
from orthoptax.layout.names import named_leaves
from orthoptax.layout.tables import flax

D = MuonDimensionNumbers


def _filled(tree):
    draw = np.random.default_rng(0).standard_normal
    return jax.tree.map(lambda x: jnp.asarray(draw(x.shape), jnp.float32), tree)


def test_the_proof_tree(proof_tree):
    assert to_optax(proof_tree) == {
        "embed": {"embedding": None},
        "dense": {"kernel": D((0,), (1,)), "bias": None},
        "blocks": {"kernel": D((1,), (2,)), "bias": None},
        "head": {"kernel": None},
    }


def test_merged_axes_keep_their_order(leaf):
    params = {"conv": {"kernel": leaf(3, 3, 4, 8)}, "query": {"kernel": leaf(8, 2, 4)}}
    numbers = to_optax(params)
    assert numbers["conv"]["kernel"] == D((0, 1, 2), (3,))
    assert numbers["query"]["kernel"] == D((0,), (1, 2))


@pytest.mark.parametrize("make", [to_optax, None], ids=["callable", "tree"])
def test_optax_muon_routes_by_it(proof_tree, make):
    params = _filled(proof_tree)
    tx = optax.contrib.muon(
        1.0, ns_steps=20, ns_coeffs=(1.5, -0.5, 0.0), consistent_rms=None,
        muon_weight_dimension_numbers=make or to_optax(params),
    )  # fmt: skip
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    kernels = [updates["dense"]["kernel"], *updates["blocks"]["kernel"]]
    for kernel in kernels:  # one matrix a layer: (8, 16), scaled by sqrt(16 / 8)
        values = np.linalg.svd(kernel / np.sqrt(2.0), compute_uv=False)
        np.testing.assert_allclose(values, np.ones(8), atol=1e-3)  # 20 stages converge
    for name in ("blocks/bias", "dense/bias", "embed/embedding", "head/kernel"):
        update = named_leaves(updates)[name]  # Adam's first step has unit entries
        assert np.all(np.abs(update) > 0.9)


def test_optax_muon_trains_an_nnx_model_by_it():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.query = nnx.LinearGeneral(8, (2, 4), rngs=rngs)

    model = Model(nnx.Rngs(0))
    tx = optax.contrib.muon(
        1.0, ns_steps=20, ns_coeffs=(1.5, -0.5, 0.0),
        muon_weight_dimension_numbers=lambda p: to_optax(p, flax()),
    )  # fmt: skip
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = np.asarray(model.query.kernel[...])
    nnx.jit(lambda m, o: o.update(m, nnx.state(m, nnx.Param)))(model, optimizer)
    step = (np.asarray(model.query.kernel[...]) - before).reshape(8, 8)
    # 20 cubic stages bring all but singular values below 1e-3 of the largest to 1.
    np.testing.assert_allclose(step.T @ step, np.eye(8), atol=0.02)


def test_round_trip(leaf, proof_tree):
    params = proof_tree | {"conv": {"kernel": leaf(3, 3, 4, 8)},
                           "attn": {"out": {"kernel": leaf(2, 4, 8)}}}  # fmt: skip
    layout = from_optax(to_optax(params))
    for name, x in named_leaves(params).items():
        assert layout(name, x) == flax()(name, x)
    assert to_optax(params, layout) == to_optax(params)


def test_round_trip_through_an_nnx_state():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    layout = from_optax(to_optax(state))
    assert layout("kernel", state["kernel"]).shapes((2, 3)) == [(3, 2)]
    assert layout("bias", state["bias"]) is None


def test_negative_axes_and_integers(leaf):
    layout = from_optax({"w": D(-2, (-1,))})
    assert layout("w", leaf(5, 2, 3)).shapes((5, 2, 3)) == [(5, 3, 2)]


def test_a_tree_of_numbers_may_be_a_prefix_of_the_parameters(leaf):
    layout = from_optax({"mlp": D(), "norm": None})
    assert layout("mlp/up/kernel", leaf(2, 3)).shapes((2, 3)) == [(3, 2)]
    assert layout("norm/scale", leaf(3)) is None
    assert from_optax(D())("any/w", leaf(2, 3)).shapes((2, 3)) == [(3, 2)]


def test_none_is_the_default_of_optax(leaf):
    layout = from_optax(None)
    assert layout("head/kernel", leaf(2, 3)).shapes((2, 3)) == [(3, 2)]
    assert layout("blocks/kernel", leaf(4, 2, 3)) is None


def test_blocks_cannot_be_said(leaf):
    with pytest.raises(
        ValueError, match=r"'qkv/kernel' of shape \(4, 8\) is fused.*Expected.*Store"
    ):
        to_optax({"qkv": {"kernel": leaf(4, 8)}}, flax(fused={"qkv": (4, 2, 2)}))


def test_a_leaf_that_the_numbers_do_not_hold_is_named(leaf):
    with pytest.raises(
        ValueError, match=r"'b' of shape \(3,\) has no dim.*Expected an entry.*Add one"
    ):
        from_optax({"w": D()})("b", leaf(3))


def test_other_entries_are_refused():
    with pytest.raises(TypeError, match=r"entry 'muon' at 'w'.*Expected Muon.*Write"):
        from_optax({"w": "muon"})
