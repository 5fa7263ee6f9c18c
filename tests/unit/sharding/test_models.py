# SPDX-License-Identifier: Apache-2.0
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from orthoptax.layout import describe, equinox, flax
from orthoptax.layout.names import named_leaves
from orthoptax.sharding.planning.models import AXES, MODELS, model, read_shapes, specs

# Published totals. GPT-2 and Llama: the parameter counts of the checkpoints
# (openai-community/gpt2*, meta-llama/*). DeepSeek-V3: those of its main model, 671B in
# README_WEIGHTS.md, 671,026,419,200, less the 58 x 256 biases that balance experts.
PUBLISHED = {
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "deepseek-v3-like": 671_026_404_352,
}
# Kernels of attention and MLP: 4 a layer in GPT-2, 7 in Llama, in DeepSeek 5 of
# attention, then 3 in a dense layer, 3 for each of 257 experts and the router.
MATRICES = {
    "gpt2-small": 4 * 12,
    "gpt2-medium": 4 * 24,
    "gpt2-large": 4 * 36,
    "gpt2-xl": 4 * 48,
    "llama3-8b": 7 * 32,
    "llama3-70b": 7 * 80,
    "llama3-405b": 7 * 126,
    "deepseek-v3-like": 5 * 61 + 3 * 3 + (3 * 257 + 1) * 58,
}
SMALL = ["gpt2-small", "llama3-8b"]


def shapes(tree):
    return {name: leaf.shape for name, leaf in named_leaves(tree).items()}


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trees(name):
    return {stacked: model(name, stacked=stacked) for stacked in (False, True)}


def test_parameter_counts_are_the_published_ones(name, trees):
    for tree in trees.values():
        total = sum(math.prod(shape) for shape in shapes(tree).values())
        assert total == PUBLISHED[name]
    assert set(PUBLISHED) == set(MODELS)


@pytest.mark.parametrize("stacked", [False, True])
def test_attention_and_mlp_are_matrices_and_nothing_else_is(name, trees, stacked):
    table = describe(trees[stacked], flax())
    kernels = [row for row in table.rows if row.view is not None]
    for row in kernels:
        assert re.search(r"(attention|mlp)/.*kernel$", row.name)
        # kernels are (..., in, out), matrices (..., out, in)
        *stack, inputs, outputs = row.shape
        assert row.matrices == ((*stack, outputs, inputs),), row
    rest = [row for row in table.rows if row.view is None]
    for row in rest:
        assert re.search("(scale|bias|embedding|lm_head/kernel)$", row.name)
        assert row.role in ("gain or bias", "embedding", "head"), row
    assert table.matrices == MATRICES[name]


def test_stacks_hold_the_layers(trees):
    single, stacks = shapes(trees[False]), shapes(trees[True])
    alone = {n: s for n, s in stacks.items() if "layers/" not in n}
    assert alone == {n: s for n, s in single.items() if "layers_" not in n}
    layers = {n: s for n, s in stacks.items() if "layers/" in n}
    found = sorted(s[1:] for s in layers.values() for _ in range(s[0]))
    assert found == sorted(s for n, s in single.items() if "layers_" in n)


def test_shapes_of_one_layer():
    llama = shapes(model("llama3-70b"))
    assert llama["layers_79/attention/query/kernel"] == (8192, 8192)
    assert llama["layers_79/attention/key/kernel"] == (8192, 1024)
    assert llama["layers_79/mlp/down/kernel"] == (28672, 8192)
    assert llama["lm_head/kernel"] == (8192, 128256)
    assert shapes(model("gpt2-small"))["layers_0/attention/fused_qkv/kernel"] == (
        768, 2304,
    )  # fmt: skip
    deep = shapes(model("deepseek-v3-like"))
    assert deep["layers_2/mlp/gate/kernel"] == (7168, 18432)
    assert deep["layers_3/mlp/experts/gate/kernel"] == (256, 7168, 2048)
    assert deep["layers_60/attention/q_b/kernel"] == (1536, 128 * 192)
    assert deep["layers_60/attention/kv_a/kernel"] == (7168, 576)
    deep = shapes(model("deepseek-v3-like", stacked=True))
    assert deep["dense/layers/mlp/gate/kernel"] == (3, 7168, 18432)
    assert deep["moe/layers/mlp/experts/down/kernel"] == (58, 256, 2048, 7168)


def test_the_fused_projection_can_be_read_as_three():
    layout = flax(fused={"fused_qkv": (768, 768, 768)})
    rows = {row.name: row for row in describe(model("gpt2-small"), layout).rows}
    fused = rows["layers_0/attention/fused_qkv/kernel"]
    assert fused.matrices == ((768, 768),) * 3


def test_dtype_reaches_every_leaf():
    leaves = jax.tree.leaves(model("gpt2-small", "bfloat16"))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert jax.tree.leaves(MODELS["gpt2-small"]())[0].dtype == jnp.float32


def test_an_unknown_model_is_refused_with_the_known_ones():
    known = re.escape(", ".join(MODELS))
    with pytest.raises(
        ValueError,
        match=r"^model: 'gpt3' is no model with known shapes"
        rf"\. Expected one of {known}\. Pass one of them, or use ",
    ):
        model("gpt3")  # fmt: skip


# --- specs


MESHES = [
    {"fsdp": 8},
    {"dp": 2, "fsdp": 64, "tp": 8},
    {"fsdp": 24, "tp": 5},
    {"expert": 64, "fsdp": 4, "tp": 8},
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_specs_divide_and_use_an_axis_once(trees, mesh):
    tree = trees[True]
    chosen = named_leaves(specs(tree, mesh))
    assert chosen.keys() == named_leaves(tree).keys()
    for name, shape in shapes(tree).items():
        spec = chosen[name]
        assert isinstance(spec, P)
        assert len(spec) == len(shape)
        axes = [axis for axis in spec if axis is not None]
        assert len(set(axes)) == len(axes)
        assert set(axes) <= set(mesh) - {"dp"}
        assert all(shape[i] % mesh.get(axis, 1) == 0 for i, axis in enumerate(spec)), (
            name
        )


def test_llama_as_megatron_and_fsdp_cut_it():
    chosen = named_leaves(specs(model("llama3-8b"), {"fsdp": 64, "tp": 8}))
    column, row, whole = P("fsdp", "tp"), P("tp", "fsdp"), P(None)
    layer = {n: s for n, s in chosen.items() if n.startswith("layers_31/")}
    assert layer == {
        "layers_31/attention/key/kernel": column,
        "layers_31/attention/out/kernel": row,
        "layers_31/attention/query/kernel": column,
        "layers_31/attention/value/kernel": column,
        "layers_31/attention_norm/scale": whole,
        "layers_31/mlp/down/kernel": row,
        "layers_31/mlp/gate/kernel": column,
        "layers_31/mlp/up/kernel": column,
        "layers_31/mlp_norm/scale": whole,
    }
    assert chosen["embedder/embedding"] == P("tp", "fsdp")
    assert chosen["lm_head/kernel"] == P("fsdp", "tp")
    assert chosen["final_norm/scale"] == whole


@pytest.mark.parametrize("mesh", [{"fsdp": 8}, {"fsdp": 8, "tp": 1, "dp": 2}], ids=str)
def test_fsdp_alone_cuts_the_inputs(mesh):
    chosen = named_leaves(specs(model("llama3-8b"), mesh))
    kernels = {n: s for n, s in chosen.items() if n.endswith("kernel")}
    assert set(kernels.values()) == {P("fsdp", None)}
    assert chosen["embedder/embedding"] == P(None, "fsdp")  # the width


def test_dp_cuts_nothing():
    found = jax.tree.leaves(specs(model("gpt2-small"), {"dp": 8}))
    assert {axis for spec in found for axis in spec} == {None}


def test_experts_and_latent_attention():
    mesh = {"expert": 64, "fsdp": 4, "tp": 8}
    chosen = named_leaves(specs(model("deepseek-v3-like", stacked=True), mesh))
    moe = {n.removeprefix("moe/layers/"): s for n, s in chosen.items()}
    assert moe["mlp/experts/gate/kernel"] == P(None, "expert", "fsdp", "tp")
    assert moe["mlp/experts/down/kernel"] == P(None, "expert", "tp", "fsdp")
    assert moe["mlp/shared/down/kernel"] == P(None, "tp", "fsdp")
    assert moe["mlp/router/kernel"] == P(None, "fsdp", None)
    assert moe["attention/q_a/kernel"] == P(None, "fsdp", None)
    assert moe["attention/q_b/kernel"] == P(None, "fsdp", "tp")
    assert moe["attention/kv_b/kernel"] == P(None, "fsdp", "tp")


def one(name, shape, mesh, layout=None):
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32)}
    return specs(tree, mesh, layout)[name]


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        # fsdp=4 falls to the other side, then nowhere; tp=3 is left out
        ("mlp/up/kernel", (6, 8), P(None, "fsdp")),
        ("mlp/up/kernel", (6, 10), P(None, None)),
        ("mlp/up/kernel", (8, 9), P("fsdp", "tp")),
        ("mlp/up/kernel", (8, 8), P("fsdp", None)),
        ("mlp/up/kernel", (6, 12), P(None, "tp")),  # tp came first
        ("mlp/down/kernel", (9, 8), P("tp", "fsdp")),
        ("mlp/down/kernel", (8, 8), P("fsdp", None)),  # no tp: inputs again
        ("wte/embedding", (7, 8), P(None, "fsdp")),
        ("wte/embedding", (9, 8), P("tp", "fsdp")),
        ("head/kernel", (8, 9), P("fsdp", "tp")),
        ("conv/kernel", (4, 4, 8, 16), P(None, None, "fsdp", None)),
        ("layers_0/attention/query/kernel", (8, 3, 2), P("fsdp", "tp", None)),
        ("layers_0/attention/out/kernel", (3, 4, 8), P("tp", None, "fsdp")),
        ("experts/up/kernel", (12, 8, 9), P(None, "fsdp", "tp")),
        ("layers/norm/scale", (12, 8), P(None, None)),
        ("mlp/up/bias", (12,), P(None)),
        ("temperature_scale/scale", (), P()),
    ],
)
def test_one_leaf(name, shape, spec):
    assert one(name, shape, {"fsdp": 4, "tp": 3}) == spec


def test_the_layout_says_which_axis_is_the_input():
    assert one("up/weight", (8, 8), {"fsdp": 4, "tp": 2}, equinox()) == P("tp", "fsdp")
    fused = flax(fused={"c_attn": (4, 4, 4)})
    assert one("c_attn/kernel", (8, 12), {"tp": 3}, fused) == P(None, "tp")


@pytest.mark.parametrize("name", ["experts/0", "shared_experts"])
def test_what_has_no_expert_axis_is_not_cut_over_experts(name):
    mesh, whole = {"expert": 4}, P(None, None, None)
    assert one(f"layers/{name}/up/kernel", (4, 8, 8), mesh) == whole


def test_a_mesh_axis_of_another_name_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"^specs: no default sharding over mesh axes "
        rf"'x', 'y'\. Expected axes among {', '.join(AXES)}\. Rename",
    ):
        one("up/kernel", (8, 8), {"x": 2, "fsdp": 2, "y": 2})  # fmt: skip


@pytest.mark.parametrize("size", [0, -2, True, 2.0, "2"])
def test_sizes_are_positive_integers(size):
    with pytest.raises(
        ValueError,
        match=r"^specs: mesh axis 'tp' has size "
        rf"{size!r}\. Expected a positive integer\. Correct the size",
    ):
        one("up/kernel", (8, 8), {"tp": size})  # fmt: skip


def test_numpy_sizes_are_integers():
    assert one("up/kernel", (8, 8), {"fsdp": np.int64(2)}) == P("fsdp", None)


def test_leaves_and_layouts_are_checked():
    with pytest.raises(TypeError, match=r"^specs: leaf 'a' is a float"):
        specs({"a": 1.0}, {"fsdp": 2})
    with pytest.raises(TypeError, match=r"^specs: layout='flax' is not a function"):
        one("up/kernel", (8, 8), {}, "flax")
    with pytest.raises(ValueError, match="c_attn/kernel"):  # the layout's question
        one("c_attn/kernel", (8, 12), {"tp": 3})


# --- read_shapes


TEXT = """{
  "layers_0/mlp/up/kernel": [4, 8],
  "layers_0": {"mlp": {"down/kernel": {"shape": [8, 4], "dtype": "bfloat16"}}},
  "shape": [3],
  "odd": {"shape": {"kernel": [2, 2]}},
  "scalar": []
}"""


def test_shapes_are_read_from_text_and_from_a_file(tmp_path):
    path = tmp_path / "shapes.json"
    path.write_text(TEXT)
    struct = jax.ShapeDtypeStruct
    wanted = {
        "layers_0": {
            "mlp": {
                "up": {"kernel": struct((4, 8), jnp.float16)},
                "down": {"kernel": struct((8, 4), jnp.bfloat16)},
            }
        },
        "shape": struct((3,), jnp.float16),
        "odd": {"shape": {"kernel": struct((2, 2), jnp.float16)}},
        "scalar": struct((), jnp.float16),
    }
    for source in (TEXT, path, str(path)):
        assert read_shapes(source, "float16") == wanted
    assert read_shapes(TEXT)["shape"].dtype == jnp.float32


@pytest.mark.parametrize("name", SMALL)
def test_what_is_written_is_read(name):
    tree = model(name)
    text = json.dumps({n: list(shape) for n, shape in shapes(tree).items()})
    assert read_shapes(text) == tree


@pytest.mark.parametrize(
    "entry",
    ['[4, 0]', '[4, -1]', '[4, 2.0]', '[4, true]', '["4"]', '4', '"4"', 'null',
     '[[4, 8]]', '{"shape": [4], "dtype": "float33"}', '{"shape": [4], "dtype": null}',
     '{"shape": [4], "dtype": 32}', '{"shape": [4], "size": 4}'],
)  # fmt: skip
def test_entries_that_are_no_shape_are_named(entry):
    said = re.escape(json.dumps(json.loads(entry)))
    with pytest.raises(
        ValueError,
        match=rf"^read_shapes: 'mlp/up' is {said}\. Expected "
        r"positive integers \[4096, 14336\], or \{\"shape\": .* Correct",
    ):
        read_shapes(f'{{"ok": [4], "mlp": {{"up": {entry}}}}}')  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"a": [4], "a": [5]}', "a"),
        ('{"a/b": [4], "a": {"b": [5]}}', "a/b"),
        ('{"a": [4], "a/b": [5]}', "a/b"),
        ('{"a/b/c": [4], "a/b": [5]}', "a/b"),
        ('{"a": [4], "a/b/c": [5]}', "a/b/c"),
    ],
)
def test_a_name_can_be_used_once(text, name):
    with pytest.raises(
        ValueError,
        match=rf"^read_shapes: '{name}' is there twice, as .*"
        r"\. Expected one name a parameter\. Rename one of them\.",
    ):
        read_shapes(text)  # fmt: skip


@pytest.mark.parametrize("text", ["shapes.json", '{"a": [4', "", "x" * 5000])
def test_what_is_neither_file_nor_json_is_said(text):
    with pytest.raises(
        ValueError,
        match=r"^read_shapes: '.*' is neither a file nor JSON "
        r"\(.*\)\. Expected a file or text such as .*\. Check the path",
    ):
        read_shapes(text)  # fmt: skip


@pytest.mark.parametrize("text", ["{}", "[4, 8]", "4", '{"a": {}}'])
def test_text_without_parameters_is_refused(text):
    with pytest.raises(
        ValueError,
        match=r"^read_shapes: .* names no parameter\. "
        "Expected a file or text such as .* Give each a name",
    ):
        read_shapes(text)  # fmt: skip
