# SPDX-License-Identifier: Apache-2.0
import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from orthoptax.layout.tables import haiku

GAIN, KEY = "gain or bias", jax.random.key(0)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Haiku's own


def _params(fn, *args):
    init = hk.transform_with_state(fn).init
    return jax.eval_shape(lambda: init(KEY, *args))[0]


def _norm(x):
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def _block(x):
    return x + hk.Linear(6)(jax.nn.relu(hk.Linear(7)(_norm(x))))


LINEARS = {
    "layer_norm/scale": GAIN, "layer_norm/offset": GAIN,
    "linear/b": GAIN, "linear_1/b": GAIN,
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
def test_a_transformer(tied, route):
    def model(tokens):
        embed = hk.Embed(50, 6)
        x = embed(tokens)
        init = hk.initializers.VarianceScaling()
        y = hk.MultiHeadAttention(2, 5, w_init=init, model_size=6)(x, x, x)
        x = hk.experimental.layer_stack(3)(_block)(x + y)
        x = hk.experimental.layer_stack(2)(_block)(x)
        x = hk.RMSNorm(-1)(hk.nets.MLP([8, 6])(x))
        return x @ embed.embeddings.T if tied else hk.Linear(50, name="head")(x)

    expected = {"embed/embeddings": "embedding", "rms_norm/scale": GAIN}
    for part in ("query", "key", "value", "linear"):
        name = f"multi_head_attention/{part}"
        expected[f"{name}/w"] = "(6, 10)" if part == "linear" else "(10, 6)"
        expected[f"{name}/b"] = GAIN
    for stack, layers in (("", 3), ("_1", 2)):
        block = LINEARS | {"linear_1/w": f"{layers} x (7, 6)"}
        block |= {"linear/w": f"{layers} x (6, 7)"}
        for name, what in block.items():
            expected[f"__layer_stack_no_per_layer{stack}/{name}"] = what
    expected |= {"mlp/~/linear_0/w": "(8, 6)", "mlp/~/linear_0/b": GAIN,
                 "mlp/~/linear_1/w": "(6, 8)", "mlp/~/linear_1/b": GAIN}  # fmt: skip
    if not tied:
        expected |= {"head/w": "head", "head/b": GAIN}
    assert route(_params(model, jnp.zeros((1, 4), int)), haiku()) == expected


def test_convolutions(route):
    def model(x):
        x = hk.Conv2D(6, (3, 5))(x)
        x = hk.BatchNorm(True, True, 0.9)(x, is_training=True)
        x = hk.Conv2DTranspose(5, 3)(hk.DepthwiseConv2D(2, 3)(x))
        x = hk.SeparableDepthwiseConv2D(2, 3)(x)
        return hk.Conv1D(7, 3)(x.reshape(1, -1, x.shape[-1]))

    depthwise = "depthwise or one-channel convolution"
    separable = "separable_depthwise_conv2_d/~/depthwise_conv2_d"
    assert route(_params(model, jnp.zeros((1, 8, 8, 3))), haiku()) == {
        "conv2_d/w": "(6, 45)", "conv2_d/b": GAIN,
        "batch_norm/scale": GAIN, "batch_norm/offset": GAIN,
        "depthwise_conv2_d/w": depthwise, "depthwise_conv2_d/b": GAIN,
        "conv2_d_transpose/w": "(5, 108)", "conv2_d_transpose/b": GAIN,
        f"{separable}/w": depthwise, f"{separable}_1/w": depthwise,
        f"{separable}_1/b": GAIN,
        "conv1_d/w": "(7, 30)", "conv1_d/b": GAIN,
    }  # fmt: skip


def test_a_transposed_convolution_has_its_outputs_before_its_inputs(leaf):
    view = haiku()("conv2_d_transpose/w", leaf(3, 3, 5, 12))
    assert (view.rows, view.cols) == ((2,), (0, 1, 3))


def test_recurrent_cells(route):
    def model(x):
        lstm, gru = hk.LSTM(6), hk.GRU(7)
        x, _ = lstm(x, lstm.initial_state(1))
        return gru(x, gru.initial_state(1))

    params = _params(model, jnp.zeros((1, 5)))
    with pytest.raises(ValueError, match=r"'gru/w_h' .*several things"):
        route(params, haiku())
    fused = {"lstm/linear": (6,) * 4, "gru/w_h": (7,) * 3, "gru/w_i": (7,) * 3}
    assert route(params, haiku(fused=fused)) == {
        "lstm/linear/w": ", ".join(["(6, 11)"] * 4), "lstm/linear/b": GAIN,
        "gru/w_i": ", ".join(["(7, 6)"] * 3), "gru/w_h": ", ".join(["(7, 7)"] * 3),
        "gru/b": GAIN,
    }  # fmt: skip


def test_fused_attention_and_experts_in_a_stack(leaf, route):
    stack = "__layer_stack_no_per_layer"
    params = {
        f"{stack}/attn/qkv": {"w": leaf(3, 6, 12), "b": leaf(3, 12)},
        f"{stack}/experts/up": {"w": leaf(3, 4, 6, 7)},
        f"{stack}/conv1_d": {"w": leaf(3, 2, 6, 7)},
        "experts/up": {"w": leaf(4, 6, 7)},
    }
    assert route(params, haiku(fused={"qkv": (6, 4, 2)})) == {
        f"{stack}/attn/qkv/w": "3 x (6, 6), 3 x (4, 6), 3 x (2, 6)",
        f"{stack}/attn/qkv/b": GAIN,
        f"{stack}/experts/up/w": "12 x (7, 6)",
        f"{stack}/conv1_d/w": "3 x (7, 12)",
        "experts/up/w": "4 x (7, 6)",
    }
