# SPDX-License-Identifier: Apache-2.0
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from orthoptax.layout.tables import flax
from orthoptax.layout.view import MatrixView

GAIN = "gain or bias"
ATTENTION = {  # of width 6 with 2 heads of 5; every size tells rows from columns
    f"attn/{part}/{x}": shape
    for part in ("query", "key", "value")
    for x, shape in (("kernel", "(10, 6)"), ("bias", GAIN))
} | {"attn/out/kernel": "(6, 10)", "attn/out/bias": GAIN}


class Block(nn.Module):
    heads: bool = True

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm(name="norm")(x)
        attention = nn.MultiHeadDotProductAttention(2, qkv_features=10, name="attn")
        x = x + (attention(y, y) if self.heads else y)
        y = nn.Dense(7, name="up")(nn.RMSNorm(name="ln")(x))
        return x + nn.Dense(6, name="down")(nn.gelu(y)), None


BLOCK = {
    "norm/scale": GAIN, "norm/bias": GAIN, "ln/scale": GAIN,
    "up/kernel": "(7, 6)", "up/bias": GAIN, "down/kernel": "(6, 7)", "down/bias": GAIN,
    **ATTENTION,
}  # fmt: skip


def _under(prefix, table, stack=""):
    return {f"{prefix}/{n}": stack + v if v[0] == "(" else v for n, v in table.items()}


def _linen(module, *args):
    return jax.eval_shape(module.init, jax.random.key(0), *args)["params"]


class Decoder(nn.Module):
    axis: int | None
    tied: bool
    container: str = "blocks"

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(50, 6, name="embed")
        x = embed(tokens)
        if self.axis is None:
            for i in range(2):
                x, _ = Block(name=f"blocks_{i}")(x)
        else:
            stack = nn.scan(
                Block, variable_axes={"params": self.axis},
                split_rngs={"params": True}, length=3,
            )  # fmt: skip
            x, _ = stack(name=self.container)(x, None)
        x = nn.LayerNorm(name="final")(x)
        return embed.attend(x) if self.tied else nn.Dense(50, name="lm_head")(x)


ENDS = {"embed/embedding": "embedding", "final/scale": GAIN, "final/bias": GAIN}
HEAD = {"lm_head/kernel": "head", "lm_head/bias": GAIN}
TOKENS = jnp.zeros((1, 4), jnp.int32)


@pytest.mark.parametrize("scan_axis", [None, 0, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_a_linen_transformer(scan_axis, tied, route):
    params = _linen(Decoder(None, tied), TOKENS)
    expected = ENDS | _under("blocks_0", BLOCK) | _under("blocks_1", BLOCK)
    expected |= {} if tied else HEAD
    assert route(params, flax(scan_axis=scan_axis)) == expected


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_a_scanned_linen_transformer(axis, tied, route):
    params = _linen(Decoder(axis, tied), TOKENS)
    expected = ENDS | _under("blocks", BLOCK, "3 x ") | ({} if tied else HEAD)
    assert route(params, flax(scan_axis=axis)) == expected


def test_without_a_scan_axis_containers_have_it_first(route):
    params = _linen(Decoder(0, True), TOKENS)
    assert route(params, flax()) == ENDS | _under("blocks", BLOCK, "3 x ")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_container_of_another_name(axis, route):
    params = _linen(Decoder(axis, True, "tower"), TOKENS)
    expected = ENDS | _under("tower", BLOCK, "3 x ")
    named = flax(scan_axis=axis, scanned=("tower",))
    assert route(params, named) == expected
    with pytest.raises(ValueError, match="could be several things"):
        route(params, flax())


def test_scan_axis_settles_dense_kernels_and_4d_attention_outside(leaf):
    for axis, shape, query in [
        (0, (3, 6, 7), (3, 6, 2, 5)),
        (1, (6, 3, 7), (6, 3, 2, 5)),
    ]:
        layout = flax(scan_axis=axis)
        assert layout("tower/up/kernel", leaf(*shape)).shapes(shape) == [(3, 7, 6)]
        view = layout("tower/query/kernel", leaf(*query))
        assert view.shapes(query) == [(3, 10, 6)]
        with pytest.raises(ValueError, match=r"'tower/query/kernel' .*several things"):
            layout("tower/query/kernel", leaf(6, 2, 5))


def test_numbered_items_hold_plain_attention(leaf):
    for axis in (None, 0, 1):
        view = flax(scan_axis=axis)("blocks/0/attn/query/kernel", leaf(6, 2, 5))
        assert view == MatrixView((1, 2), (0,))


def test_a_3d_kernel_of_no_known_name_is_an_error_with_its_readings(leaf):
    with pytest.raises(ValueError, match=r"(?s)scan_axis=0.*scan_axis=1.*conv.*attent"):
        flax()("x/kernel", leaf(2, 4, 8))


def test_the_proof_tree(proof_tree, route):
    assert route(proof_tree, flax()) == {
        "embed/embedding": "embedding",
        "dense/kernel": "(16, 8)",
        "dense/bias": GAIN,
        "blocks/kernel": "4 x (16, 8)",
        "blocks/bias": GAIN,
        "head/kernel": "head",
    }


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 5))(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise_conv")(x)
        x = nn.GroupNorm(2)(x)
        x = nn.ConvTranspose(4, (2, 2))(x)
        x = nn.Conv(7, (3, 3, 2), name="conv3d")(x[..., None, :])
        x = nn.PReLU()(nn.Conv(9, (3,))(x.reshape(1, -1, 7)))
        return nn.Dense(10, name="head")(x.mean(1))


def test_linen_convolutions(route):
    assert route(_linen(Convolutions(), jnp.zeros((1, 8, 8, 3))), flax()) == {
        "Conv_0/kernel": "(6, 45)", "Conv_0/bias": GAIN,
        "BatchNorm_0/scale": GAIN, "BatchNorm_0/bias": GAIN,
        "depthwise_conv/kernel": "depthwise or one-channel convolution",
        "depthwise_conv/bias": GAIN,
        "GroupNorm_0/scale": GAIN, "GroupNorm_0/bias": GAIN,
        "ConvTranspose_0/kernel": "(4, 24)", "ConvTranspose_0/bias": GAIN,
        "conv3d/kernel": "(7, 72)", "conv3d/bias": GAIN,
        "Conv_1/kernel": "(9, 21)", "Conv_1/bias": GAIN,
        "PReLU_0/negative_slope": GAIN,
        "head/kernel": "head", "head/bias": GAIN,
    }  # fmt: skip


def test_scanned_convolutions(leaf, route):
    params = {
        "blocks": {
            "conv": {"kernel": leaf(4, 3, 5, 6, 7), "bias": leaf(4, 7)},
            "depthwise_conv": {"kernel": leaf(4, 3, 5, 1, 7)},
        }
    }
    assert route(params, flax()) == {
        "blocks/conv/kernel": "4 x (7, 90)",
        "blocks/conv/bias": GAIN,
        "blocks/depthwise_conv/kernel": "depthwise or one-channel convolution, scanned",
    }


class Mixture(nn.Module):
    axis: int

    @nn.compact
    def __call__(self, x, _=None):
        experts = nn.vmap(nn.Dense, in_axes=None, variable_axes={"params": 0},
                          split_rngs={"params": True}, axis_size=4)  # fmt: skip
        nn.Dense(4, name="router")(x)

        class Experts(nn.Module):
            @nn.compact
            def __call__(self, x):
                return experts(7, name="up")(x)

        Experts(name="experts")(x)
        return x, None


@pytest.mark.parametrize("axis", [0, 1])
def test_experts_alone_and_scanned(axis, route):
    one = {"router/kernel": "(4, 6)", "router/bias": GAIN,
           "experts/up/kernel": "4 x (7, 6)", "experts/up/bias": GAIN}  # fmt: skip
    x = jnp.zeros((1, 6))
    assert route(_linen(Mixture(0), x), flax()) == one
    stack = nn.scan(Mixture, variable_axes={"params": axis},
                    split_rngs={"params": True}, length=3)  # fmt: skip

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return stack(0, name="layers")(x, None)

    params = _linen(Model(), x)
    kernel = params["layers"]["experts"]["up"]["kernel"]
    assert kernel.shape == ((3, 4, 6, 7), (4, 3, 6, 7))[axis]
    view = flax(scan_axis=axis)("layers/experts/up/kernel", kernel)
    assert (view.rows, view.cols) == ((3,), (2,))
    assert route(params, flax(scan_axis=axis)) == {
        "layers/router/kernel": "3 x (4, 6)", "layers/router/bias": GAIN,
        "layers/experts/up/kernel": "12 x (7, 6)", "layers/experts/up/bias": GAIN,
    }  # fmt: skip


def test_fused_projections(leaf, route):
    fused = {"qkv": (6, 4, 2), "gate_up": (7, 7)}
    params = {
        "attn": {"qkv": {"kernel": leaf(6, 12), "bias": leaf(12)}},
        "blocks": {"gate_up": {"kernel": leaf(3, 6, 14)}},
        "four": {"qkv": {"kernel": leaf(6, 3, 2, 5)}},
    }
    assert route(params, flax(fused=fused)) == {
        "attn/qkv/kernel": "(6, 6), (4, 6), (2, 6)",
        "attn/qkv/bias": GAIN,
        "blocks/gate_up/kernel": "3 x (7, 6), 3 x (7, 6)",
        "four/qkv/kernel": "3 x (10, 6)",
    }
    view = flax(scan_axis=1, fused=fused)("x/gate_up/kernel", leaf(6, 3, 14))
    assert view.shapes((6, 3, 14)) == [(3, 7, 6), (3, 7, 6)]


def test_a_module_below_a_conv_named_one_is_dense(leaf):
    assert flax()("convnet/dense/kernel", leaf(6, 7)) == MatrixView((1,), (0,))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.ln = nnx.RMSNorm(6, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, 6, 10, decode=False, rngs=rngs)
        self.up = nnx.Linear(6, 7, rngs=rngs)
        self.down = nnx.Linear(7, 6, rngs=rngs)


class NnxModel(nnx.Module):
    def __init__(self, rngs, axis):
        self.embed = nnx.Embed(50, 6, rngs=rngs)
        if axis is None:
            self.blocks = nnx.List([NnxBlock(rngs) for _ in range(2)])
        else:
            axes = nnx.StateAxes({nnx.Param: axis, ...: 0})
            make = nnx.vmap(NnxBlock, in_axes=0, out_axes=axes)
            self.blocks = nnx.split_rngs(splits=3)(make)(rngs)
        self.final = nnx.LayerNorm(6, rngs=rngs)
        self.lm_head = nnx.Linear(6, 50, rngs=rngs)


def _nnx(make):
    return nnx.state(nnx.eval_shape(make), nnx.Param)


@pytest.mark.parametrize("scan_axis", [None, 0, 1])
def test_an_nnx_transformer(scan_axis, route):
    state = _nnx(lambda: NnxModel(nnx.Rngs(0), None))
    expected = ENDS | HEAD | _under("blocks/0", BLOCK) | _under("blocks/1", BLOCK)
    assert route(state, flax(scan_axis=scan_axis)) == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_an_nnx_transformer_stacked_by_vmap(axis, route):
    state = _nnx(lambda: NnxModel(nnx.Rngs(0), axis))
    expected = ENDS | HEAD | _under("blocks", BLOCK, "3 x ")
    assert route(state, flax(scan_axis=axis)) == expected


def test_recurrent_cells(route):
    rngs = nnx.Rngs(0)
    gru = {"cell": nnx.state(nnx.GRUCell(5, 7, rngs=rngs), nnx.Param)}
    lstm = {"cell": nnx.state(nnx.LSTMCell(5, 7, rngs=rngs), nnx.Param)}
    fused = {"dense_i": (7, 7, 7), "dense_h": (7, 7, 7)}
    assert route(gru, flax(fused=fused)) == {
        "cell/dense_i/kernel": "(7, 5), (7, 5), (7, 5)", "cell/dense_i/bias": GAIN,
        "cell/dense_h/kernel": "(7, 7), (7, 7), (7, 7)",
    }  # fmt: skip
    assert route(lstm, flax()) == {
        **{f"cell/{n}/kernel": "(7, 5)" for n in ("ii", "if_", "ig", "io")},
        **{f"cell/{n}/kernel": "(7, 7)" for n in ("hi", "hf", "hg", "ho")},
        **{f"cell/{n}/bias": GAIN for n in ("hi", "hf", "hg", "ho")},
    }
