# SPDX-License-Identifier: Apache-2.0
"""MaxText itself is not installed here: its names and shapes, written out."""

import pytest

from orthoptax.layout.tables import maxtext

EMB, L, HEADS, HD, MLP, EXPERTS, RANK = 6, 3, 2, 5, 7, 4, 9
UNSTACKED = {  # path inside one layer: shape there, matrices
    "pre_self_attention_layer_norm/scale": ((EMB,), None),
    "self_attention/query/kernel": ((EMB, HEADS, HD), (10, 6)),
    "self_attention/query/bias": ((HEADS, HD), None),
    "self_attention/key/kernel": ((EMB, HEADS, HD), (10, 6)),
    "self_attention/value/kernel": ((EMB, HEADS, HD), (10, 6)),
    "self_attention/out/kernel": ((HEADS, HD, EMB), (6, 10)),
    "self_attention/query_norm/scale": ((HD,), None),
    "self_attention/wq_a/kernel": ((EMB, RANK), (9, 6)),
    "self_attention/wq_b/kernel": ((RANK, HEADS, HD), (10, 9)),
    "self_attention/wkv_a/kernel": ((EMB, RANK), (9, 6)),
    "self_attention/wkv_b/kernel": ((RANK, HEADS, HD), (10, 9)),
    "self_attention/kv_norm/scale": ((RANK,), None),
    "mlp/wi_0/kernel": ((EMB, MLP), (7, 6)),
    "mlp/wi_1/kernel": ((EMB, MLP), (7, 6)),
    "mlp/wo/kernel": ((MLP, EMB), (6, 7)),
    "mlp/wo/bias": ((EMB,), None),
    "shared_experts/wi_0/kernel": ((EMB, MLP), (7, 6)),
    "MoeBlock_0/gate/kernel": ((EMB, EXPERTS), (4, 6)),
    "MoeBlock_0/gate/bias": ((EXPERTS,), None),
}
EXPERT = {  # leaf of 'MoeBlock_0': matrix of one expert, (in, out)
    "wi_0": (EMB, MLP),
    "wi_1": (EMB, MLP),
    "wo": (MLP, EMB),
}
ONCE = {
    "params/token_embedder/embedding": (50, EMB),
    "params/decoder/decoder_norm/scale": (EMB,),
    "params/decoder/logits_dense/kernel": (EMB, 50),
    "params/decoder/position_embedder/embedding": (20, EMB),
}


def _insert(shape, axis):
    return (*shape[:axis], L, *shape[axis:])


def _text(stack, matrix):
    return (f"{stack} x " if stack else "") + str(matrix)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "container", ["layers", "moe_layers", "dense_layers", "layers/layers_0"]
)
def test_every_leaf_of_a_scanned_decoder(axis, container, leaf, route):
    params, expected = {}, {}
    for path, (shape, matrix) in UNSTACKED.items():
        name = f"params/decoder/{container}/{path}"
        params[name] = leaf(*_insert(shape, axis))
        expected[name] = "gain or bias" if matrix is None else _text(L, matrix)
    for path, (i, o) in EXPERT.items():
        name = f"params/decoder/{container}/mlp/MoeBlock_0/{path}"
        params[name] = leaf(*_insert((EXPERTS, i, o), axis))
        expected[name] = _text(L * EXPERTS, (o, i))
        params[name + "_bias"] = leaf(*_insert((EXPERTS, o), axis))
        expected[name + "_bias"] = "gain or bias"
    name = f"params/decoder/{container}/self_attention/qkv_proj/kernel"
    params[name] = leaf(*_insert((EMB, 3, HEADS, HD), axis))
    expected[name] = _text(L * 3, (10, 6))
    name = f"params/decoder/{container}/mlp/wi/kernel"
    params[name] = leaf(*_insert((EMB, 2, MLP), axis))
    expected[name] = _text(L * 2, (7, 6))
    assert route(params, maxtext(scan_axis=axis)) == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_every_leaf_of_an_unscanned_decoder(axis, leaf, route):
    params, expected = {}, {}
    for path, (shape, matrix) in UNSTACKED.items():
        name = f"params/decoder/layers_0/{path}"
        params[name] = leaf(*shape)
        expected[name] = "gain or bias" if matrix is None else str(matrix)
    for path, (i, o) in EXPERT.items():
        name = f"params/decoder/layers_1/MoeBlock_0/{path}"
        params[name] = leaf(EXPERTS, i, o)
        expected[name] = _text(EXPERTS, (o, i))
    name = "params/decoder/layers_0/self_attention/qkv_proj/kernel"
    params[name], expected[name] = leaf(EMB, 3, HEADS, HD), "3 x (10, 6)"
    assert route(params, maxtext(scan_axis=axis)) == expected


def test_every_leaf_outside_the_layers(leaf, route):
    params = {name: leaf(*shape) for name, shape in ONCE.items()}
    assert route(params, maxtext()) == {
        "params/token_embedder/embedding": "embedding",
        "params/decoder/decoder_norm/scale": "gain or bias",
        "params/decoder/logits_dense/kernel": "head",
        "params/decoder/position_embedder/embedding": "embedding",
    }


def test_the_axes_and_not_only_their_sizes(leaf):
    layout = maxtext()
    query = layout("decoder/layers/self_attention/query/kernel", leaf(6, 3, 2, 5))
    out = layout("decoder/layers/self_attention/out/kernel", leaf(2, 3, 5, 6))
    moe = layout("decoder/layers/MoeBlock_0/wi_0", leaf(4, 3, 6, 7))
    assert (query.rows, query.cols) == ((2, 3), (0,))
    assert (out.rows, out.cols) == ((3,), (0, 2))
    assert (moe.rows, moe.cols) == ((3,), (2,))
