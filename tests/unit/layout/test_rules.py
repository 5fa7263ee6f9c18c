# SPDX-License-Identifier: Apache-2.0
import re

import pytest

from orthoptax.layout.rules import Rule, rule_line, rules
from orthoptax.layout.tables import equinox, flax, haiku, maxtext
from orthoptax.layout.view import MatrixView

KERNEL = MatrixView(rows=(1,), cols=(0,))
SCOPE = {
    "MatrixView": MatrixView, "rules": rules,
    "flax": flax, "equinox": equinox, "haiku": haiku, "maxtext": maxtext,
}  # fmt: skip


def _message(layout, name, x):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the callers read it
        layout(name, x)
    return str(error.value)


def test_an_unmatched_vector_names_itself_and_the_line_to_paste(leaf):
    text = _message(rules(("kernel$", KERNEL)), "ln/scale", leaf(768))
    assert text == (
        "layout: parameter 'ln/scale' of shape (768,) matches no rule. Expected a rule "
        'for every parameter. Add ("^ln/scale$", None) if it is not a matrix.'
    )
    line = eval(re.search(r"Add (\(.*?\)) if", text).group(1))
    assert rules(line)("ln/scale", leaf(768)) is None


def test_an_unmatched_matrix_is_offered_a_view_too(leaf):
    text = _message(rules(("kernel$", KERNEL)), "a-b/w.1", leaf(2, 3, 4))
    line = eval(re.search(r", or (\(.*\)) if its last", text).group(1), SCOPE)
    layout = rules(line)
    assert layout("a-b/w.1", leaf(2, 3, 4)).shapes((2, 3, 4)) == [(2, 4, 3)]
    with pytest.raises(ValueError, match="matches no rule"):
        layout("a-b/wx1", leaf(2, 3, 4))  # the pasted line is about this leaf alone


def test_rules_that_agree_are_fine(leaf):
    layout = rules(("kernel$", KERNEL), ("^dense", MatrixView((-1,), (-2,))))
    assert layout("dense/kernel", leaf(2, 3)) == KERNEL


def test_rules_that_disagree_are_an_error_with_a_way_out(leaf):
    layout = rules(("kernel$", KERNEL), ("^head", None))
    text = _message(layout, "head/kernel", leaf(2, 3))
    assert "'head/kernel' of shape (2, 3) matches rules that disagree" in text
    assert '"kernel$"' in text
    assert '("^head", None)' in text
    assert "Expected one answer. Narrow a pattern" in text
    pasted = re.search(r"rules\(.*base=layout\)", text).group()
    settled = eval(pasted, SCOPE | {"layout": layout})
    assert settled("head/kernel", leaf(2, 3)) == KERNEL


def test_views_that_differ_in_blocks_disagree(leaf):
    layout = rules(("w$", KERNEL), ("w$", MatrixView((1,), (0,), (2, 1))))
    with pytest.raises(ValueError, match=r"disagree.*blocks=\(2, 1\)"):
        layout("w", leaf(2, 3))


@pytest.mark.parametrize("table", [flax, equinox, haiku, maxtext])
def test_overrides_win_over_every_table(table, leaf):
    line = ("(kernel|weight|w)$", MatrixView((0,), (1,)))
    for name in ("head/kernel", "head/weight", "head/w"):
        assert table(line)(name, leaf(2, 3)) == MatrixView((0,), (1,))


def test_the_base_knows_what_the_table_does_not(leaf):
    layout = rules(("^mine$", None), base=flax())
    assert layout("mine", leaf(2, 3)) is None
    assert layout("dense/kernel", leaf(2, 3)) == KERNEL
    assert layout.role("dense/kernel", leaf(2, 3)) == "dense"


def test_a_view_that_does_not_fit_names_the_leaf(leaf):
    with pytest.raises(ValueError, match=r"'a/w' of shape \(3,\)\. Expected different"):
        rules(("w$", KERNEL))("a/w", leaf(3))


def test_wrong_block_sums_name_the_leaf(leaf):
    with pytest.raises(
        ValueError, match=r"sum to 7, but 'x/qkv/kernel' of .* has 8 rows\. Expected"
    ):
        flax(fused={"qkv": (4, 2, 1)})("x/qkv/kernel", leaf(6, 8))


def test_conditions_of_a_rule(leaf):
    rule = Rule("w$", KERNEL, "mine", ndim=2, inside="^a/", unless="/b/",
                when=lambda shape: shape[0] > 1)  # fmt: skip
    layout = rules(rule, base=lambda name, x: None)
    assert layout("a/w", leaf(2, 3)) == KERNEL
    assert layout.role("a/w", leaf(2, 3)) == "mine"
    for name, shape in [
        ("a/w", (2, 3, 4)), ("c/w", (2, 3)), ("a/b/w", (2, 3)), ("a/w", (1, 3)),
        ("a/v", (2, 3)),
    ]:  # fmt: skip
        assert layout(name, leaf(*shape)) is None


@pytest.mark.parametrize("entry", ["bias$", ("bias$",), (None, None), 3])
def test_entries_that_are_no_rules(entry):
    with pytest.raises(TypeError, match=r"is not a rule\. Expected \(pattern.*Write"):
        rules(entry)


def test_views_that_are_no_views():
    with pytest.raises(TypeError, match=r"view 'muon' of 'w' is no view.*Expected a M"):
        rules(("w", "muon"))


def test_patterns_that_do_not_compile():
    with pytest.raises(ValueError, match=r"'\(' does not compile.*Expected a regular"):
        rules(("(", None))


@pytest.mark.parametrize("table", [flax, equinox, maxtext])
@pytest.mark.parametrize("axis", [2, -1, "0", True])
def test_scan_axis_is_checked(table, axis):
    with pytest.raises(
        ValueError, match=rf"{table.__name__}: scan_axis=.*Expected 0, 1.*Pass"
    ):
        table(scan_axis=axis)


@pytest.mark.parametrize("table", [flax, equinox, haiku, maxtext])
@pytest.mark.parametrize("argument", ["scanned", "heads", "experts"])
def test_one_string_is_not_a_tuple_of_names(table, argument):
    with pytest.raises(
        TypeError, match=rf"{table.__name__}: {argument}='h' is one string\. Expected"
    ):
        table(**{argument: "h"})


@pytest.mark.parametrize("table", [flax, equinox, haiku, maxtext])
def test_fused_sizes_are_integers(table):
    with pytest.raises(TypeError, match=r"gives no sizes\. Expected a tuple.*Write"):
        table(fused={"qkv": 3})


def test_empty_lists_of_names_match_nothing(leaf):
    layout = flax(heads=(), scanned=(), experts=())
    assert layout("head/kernel", leaf(2, 3)) == KERNEL
    assert layout("dense/kernel", leaf(2, 3)) == KERNEL


def test_rule_line_says_every_field():
    view = MatrixView((1,), (0,), (2, 1), groups=3)
    assert eval(rule_line("a.b", view), SCOPE) == (r"^a\.b$", view)


QUESTIONS = [  # table, leaf, shape, words of the readings
    (
        flax(),
        "x/kernel",
        (2, 4, 8),
        ["layers on axis 0", "axis 1", "conv", "attention"],
    ),
    (flax(), "blocks/0/x/kernel", (2, 4, 8), ["axis 0", "axis 1", "conv", "attention"]),
    (flax(), "layers/conv/kernel", (3, 4, 8), ["axis 0", "convolution"]),
    (flax(), "x/kernel", (2, 3, 4, 8), ["two-dimensional", "attention", "experts"]),
    (flax(), "x/query/kernel", (2, 6, 4, 8), ["layers on axis 0", "layers on axis 1"]),
    (flax(), "blocks_1/query/kernel", (2, 6, 4, 8), ["two-dimensional", "experts"]),
    (flax(), "x/qkv/kernel", (8, 24), ["fused", "one matrix"]),
    (flax(), "layers/qkv/kernel", (2, 8, 24), ["fused", "one matrix"]),
    (flax(), "x/qkv/kernel", (2, 8, 24), ["axis 0", "axis 1", "a head", "one matrix"]),
    (flax(), "blocks/0/qkv/kernel", (8, 2, 24), ["a head", "one matrix"]),
    (flax(), "x/gate_up/kernel", (2, 4, 8, 24), ["one matrix", "fused attention"]),
    (flax(), "cell/dense_h/kernel", (4, 16), ["fused", "one matrix"]),
    (flax(), "patch_embed/kernel", (48, 8), ["an embedding", "input projection"]),
    (flax(), "patch_embed/kernel", (4, 4, 3, 8), ["an embedding", "patches", "stack"]),
    (flax(scan_axis=0), "x/q/kernel", (3, 4, 8), ["Dense kernels", "attention kernel"]),
    (flax(scan_axis=1), "x/q/kernel", (4, 3, 8), ["Dense kernels", "attention kernel"]),
    (flax(scan_axis=1), "x/out/kernel", (4, 3, 8), ["Dense kernels", "output"]),
    (flax(scan_axis=1), "blocks/0/x/kernel", (2, 4, 8), ["axis 0", "axis 1", "conv"]),
    (maxtext(), "decoder/x/kernel", (2, 4, 8), ["axis 0", "axis 1", "conv"]),
    (maxtext(), "layers/qkv_proj/kernel", (4, 2, 8), ["fused", "one matrix"]),
    (equinox(), "x/weight", (2, 4, 8), ["layers on axis 0", "axis 1", "convolution"]),
    (equinox(), "layers/0/weight", (8, 4, 3), ["axis 0", "axis 1", "convolution"]),
    (equinox(), "blocks/pre/weight", (8, 4), ["gains", "Linear"]),
    (equinox(), "x/weight", (8, 4, 3, 3), ["two-dimensional", "experts", "axis 0"]),
    (equinox(), "qkv/weight", (24, 8), ["fused", "one matrix"]),
    (equinox(), "x/qkv/weight", (2, 24, 8), ["axis 0", "axis 1", "one matrix"]),
    (equinox(), "blocks/qkv/weight", (2, 24, 8), ["fused", "one matrix"]),
    (equinox(), "cell/weight_ih", (28, 5), ["gates", "one matrix"]),
    (equinox(), "blocks/cell/weight_hh", (2, 21, 7), ["gates", "one matrix"]),
    (haiku(), "x/w", (2, 4, 8), ["Linear", "one-dimensional"]),
    (haiku(), "x/w", (3, 3, 4, 8), ["two-dimensional", "experts"]),
    (haiku(), "qkv/w", (8, 24), ["fused", "one matrix"]),
    (haiku(), "lstm/linear/w", (10, 24), ["gates", "one matrix"]),
    (haiku(), "gru_1/w_h", (6, 18), ["gates", "one matrix"]),
    (
        haiku(),
        "__layer_stack_no_per_layer/gru/w_i",
        (2, 4, 18),
        ["gates", "one matrix"],
    ),
]


@pytest.mark.parametrize(("layout", "name", "shape", "words"), QUESTIONS)
def test_every_reading_says_what_it_is_and_settles_the_leaf(
    layout, name, shape, words, leaf
):
    text = _message(layout, name, leaf(*shape))
    assert f"{name!r} of shape {shape} could be several things. Expected one" in text
    options = re.findall(r"\n  (.*?)  # ([^\n]*)", text)
    for word in words:
        assert any(word in what for _, what in options)
    for line, _ in options:
        settled = eval(line, SCOPE)
        view = settled(name, leaf(*shape))
        assert view is None or view.shapes(shape)
        assert settled.role(name, leaf(*shape))


def test_readings_have_the_axes_of_what_they_say(leaf):
    text = _message(flax(scan_axis=1), "x/query/kernel", leaf(6, 3, 4))
    lines = re.findall(r"\n  (.*?)  #", text)
    shapes = [eval(x, SCOPE)("x/query/kernel", leaf(6, 3, 4)).shapes((6, 3, 4))
              for x in lines]  # fmt: skip
    assert shapes == [[(3, 4, 6)], [(12, 6)]]
