# SPDX-License-Identifier: Apache-2.0
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from orthoptax.layout.describe import describe
from orthoptax.layout.tables import equinox

GAIN, KEY = "gain or bias", jax.random.key(0)


def _arrays(model):
    return eqx.filter(model, eqx.is_inexact_array)


def _shapes(model):
    return eqx.filter(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))


class Block(eqx.Module):
    ln1: eqx.nn.LayerNorm
    norm: eqx.nn.RMSNorm
    attn: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.ln1, self.norm = eqx.nn.LayerNorm(6), eqx.nn.RMSNorm(6)
        self.attn = eqx.nn.MultiheadAttention(
            2, 6, qk_size=5, vo_size=4, use_query_bias=True, key=key
        )
        self.mlp = eqx.nn.MLP(6, 8, 7, 1, key=key)


BLOCK = {
    "ln1/weight": GAIN, "ln1/bias": GAIN, "norm/weight": GAIN, "norm/bias": GAIN,
    "attn/query_proj/weight": "(10, 6)", "attn/query_proj/bias": GAIN,
    "attn/key_proj/weight": "(10, 6)", "attn/value_proj/weight": "(8, 6)",
    "attn/output_proj/weight": "(6, 8)",
    "mlp/layers/0/weight": "(7, 6)", "mlp/layers/0/bias": GAIN,
    "mlp/layers/1/weight": "(8, 7)", "mlp/layers/1/bias": GAIN,
}  # fmt: skip


class Model(eqx.Module):
    wte: eqx.nn.Embedding
    pos_embed: eqx.nn.Embedding
    blocks: object
    head: eqx.nn.Linear | None

    def __init__(self, stacked, tied):
        self.wte = eqx.nn.Embedding(50, 6, key=KEY)
        self.pos_embed = eqx.nn.Embedding(9, 6, key=KEY)
        keys = jax.random.split(KEY, 3)
        self.blocks = (
            eqx.filter_vmap(Block)(keys) if stacked else [Block(k) for k in keys]
        )
        self.head = None if tied else eqx.nn.Linear(6, 50, key=KEY)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_transformer(stacked, tied, route):
    expected = {"wte/weight": "embedding", "pos_embed/weight": "embedding"}
    if not tied:
        expected |= {"head/weight": "head", "head/bias": GAIN}
    items = ["blocks"] if stacked else [f"blocks/{i}" for i in range(3)]
    stack = "3 x " if stacked else ""
    for item in items:
        for name, what in BLOCK.items():
            expected[f"{item}/{name}"] = stack + what if what[0] == "(" else what
    model = eqx.filter_eval_shape(Model, stacked, tied)
    assert route(_shapes(model), equinox()) == expected


class Parts(eqx.Module):
    conv: eqx.nn.Conv2d
    depthwise_conv: eqx.nn.Conv2d
    conv1: eqx.nn.Conv1d
    upconv: eqx.nn.ConvTranspose2d
    net: eqx.nn.Sequential
    batch_norm: eqx.nn.BatchNorm
    group: eqx.nn.GroupNorm
    act: eqx.nn.PReLU

    def __init__(self):
        self.conv = eqx.nn.Conv2d(3, 6, (3, 5), key=KEY)
        self.depthwise_conv = eqx.nn.Conv2d(6, 6, 3, groups=6, key=KEY)
        self.conv1 = eqx.nn.Conv1d(6, 7, 3, key=KEY)
        self.upconv = eqx.nn.ConvTranspose2d(5, 4, 2, key=KEY)
        self.net = eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(4, 5, 3, key=KEY),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv3d(2, 3, (1, 2, 2), key=KEY),
                eqx.nn.Linear(5, 4, key=KEY),
            ]
        )
        self.batch_norm = eqx.nn.BatchNorm(4, "batch", mode="batch")
        self.group, self.act = eqx.nn.GroupNorm(2, 4), eqx.nn.PReLU()


def test_convolutions_and_gains(route):
    model, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(Parts))
    assert route(_shapes(model), equinox()) == {
        "conv/weight": "(6, 45)", "conv/bias": GAIN,
        "depthwise_conv/weight": "depthwise or one-channel convolution",
        "depthwise_conv/bias": GAIN,
        "conv1/weight": "(7, 18)", "conv1/bias": GAIN,
        "upconv/weight": "(4, 20)", "upconv/bias": GAIN,
        "net/layers/0/weight": "(5, 36)", "net/layers/0/bias": GAIN,
        "net/layers/2/weight": "(3, 8)", "net/layers/2/bias": GAIN,
        "net/layers/3/weight": "(4, 5)", "net/layers/3/bias": GAIN,
        "batch_norm/weight": GAIN, "batch_norm/bias": GAIN,
        "group/weight": GAIN, "group/bias": GAIN, "act/negative_slope": GAIN,
    }  # fmt: skip


def test_stacked_convolutions(route):
    make = eqx.filter_vmap(lambda k: eqx.nn.Conv2d(3, 6, (3, 5), key=k))
    params = {"blocks": {"conv": _arrays(make(jax.random.split(KEY, 4)))}}
    assert route(params, equinox()) == {
        "blocks/conv/weight": "4 x (6, 45)",
        "blocks/conv/bias": GAIN,
    }


def test_a_linear_stacked_outside_containers_asks(route):
    make = eqx.filter_vmap(lambda k: eqx.nn.Linear(3, 6, key=k))
    params = {"tower": _arrays(make(jax.random.split(KEY, 4)))}
    with pytest.raises(ValueError, match=r"'tower/weight' .*several things"):
        route(params, equinox())
    expected = {"tower/weight": "4 x (6, 3)", "tower/bias": GAIN}
    assert route(params, equinox(scan_axis=0)) == expected
    assert route(params, equinox(scanned=("tower",))) == expected


def test_experts_in_a_stack(leaf, route):
    params = {
        "blocks": {"experts": {"up": {"weight": leaf(3, 4, 7, 6)}}},
        "experts": {"up": {"weight": leaf(4, 7, 6), "bias": leaf(4, 7)}},
    }
    assert route(params, equinox()) == {
        "blocks/experts/up/weight": "12 x (7, 6)",
        "experts/up/weight": "4 x (7, 6)",
        "experts/up/bias": GAIN,
    }


def test_recurrent_cells(route):
    params = {"gru": _arrays(eqx.nn.GRUCell(5, 7, key=KEY))}
    with pytest.raises(ValueError, match=r"'gru/weight_ih' .*several things"):
        route(params, equinox())
    gates = (7, 7, 7)
    assert route(params, equinox(fused={"weight_ih": gates, "weight_hh": gates})) == {
        "gru/weight_ih": "(7, 5), (7, 5), (7, 5)",
        "gru/weight_hh": "(7, 7), (7, 7), (7, 7)",
        "gru/bias": GAIN, "gru/bias_n": GAIN,
    }  # fmt: skip


def test_fused_attention(leaf, route):
    params = {"blocks": {"qkv": {"weight": leaf(3, 12, 6), "bias": leaf(3, 12)}},
              "qkv": {"weight": leaf(12, 6)}}  # fmt: skip
    assert route(params, equinox(fused={"qkv": (6, 4, 2)})) == {
        "blocks/qkv/weight": "3 x (6, 6), 3 x (4, 6), 3 x (2, 6)",
        "blocks/qkv/bias": GAIN,
        "qkv/weight": "(6, 6), (4, 6), (2, 6)",
    }


def test_a_norm_over_several_axes_is_told_by_name(route):
    norm = {"layer_norm": _arrays(eqx.nn.LayerNorm((3, 5)))}
    assert set(route(norm, equinox()).values()) == {GAIN}


def test_the_model_and_the_table_agree_on_what_an_output_is():
    x, linear = jnp.arange(3.0), eqx.nn.Linear(3, 5, use_bias=False, key=KEY)
    view = describe({"l": _arrays(linear)}, equinox()).rows[0].view
    (matrix,) = view.split(linear.weight)
    assert jnp.allclose(matrix @ x, linear(x), atol=1e-6)  # float32 sums of 3 terms
