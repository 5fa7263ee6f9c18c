# SPDX-License-Identifier: Apache-2.0
"""Types, operands and attributes of HLO text."""

import pytest

from orthoptax.sharding.compiled.hlo import Shape, parse


def line(text):
    """The root of a program that is one line."""
    return parse(f"ENTRY main {{\n  ROOT %r = {text}\n}}").computations["main"].root


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[]", 4),
        ("f32[2,3]{1,0}", 24),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 2048),
        ("pred[10]{0:T(512)}", 10),
        ("c64[4]{0}", 32),
        ("c128[4]{0}", 64),
        ("f8e4m3fn[16]{0}", 16),
        ("s4[5]{0:E(4)}", 3),
        ("u16[0,4]{1,0}", 0),
        ("f32[<=6]{0}", 24),
        ("token[]", 0),
        ("(f32[2]{0}, (s8[3]{0}, /*index=5*/u32[]{:S(2)}), ())", 15),
    ],
)
def test_bytes(text, size):
    assert sum(shape.bytes for shape in line(f"{text} parameter(0)").shapes) == size


OPERANDS = [
    "a, b.1",
    "%a, %b.1",
    "f32[2,3]{1,0} %a, (f32[], (s32[2]{0:T(8,128)S(1)})) %b.1",
    "f32[2,3]{1,0:T(8,128)(2,1)} a, /*index=1*/%b.1",
]


@pytest.mark.parametrize("text", OPERANDS)
def test_operands(text):
    assert line(f"f32[] add({text}), attribute={{1,2}}").operands == ("a", "b.1")


def test_parts_of_an_operation():
    found = line(
        '(f32[2]{0}) custom-call(%a), custom_call_target="a_b$c", axes={3,4}, '
        'metadata={op_name="f/{g}\\"calls=%no" source_line=3}, calls={%x, %y.2}, '
        "to_apply=z, branch_computations={%u}"
    )
    assert (found.opcode, found.target, found.type) == (
        "custom-call",
        "a_b$c",
        (Shape("f32", (2,)),),
    )
    assert found.integers("axes") == (3, 4)
    assert found.integers("axis") == ()
    assert found.called("calls", "to_apply") == ["x", "y.2", "z"]
    assert found.where == 'f/{g}\\"calls=%no'


def test_parts_of_a_module():
    module = parse("""HloModule f, is_scheduled=true, replica_count=2, num_partitions=4

FileNames
1 "a.py"

%inner (p: (f32[2], s32[])) -> f32[2] {
  %p = (f32[2]{0}, s32[]) parameter(0)
  ROOT %q = f32[2]{0} get-tuple-element(%p), index=0
  %last = s32[] get-tuple-element(%p), index=1
}, execution_thread="other"

ENTRY %main.1 () -> f32[2] {
  %c = s32[2,1]{1,0} constant({ {1}, {-2} })
  ROOT %r = f32[2]{0} call(%c), to_apply=%inner
}
""")
    assert (module.entry, module.devices) == ("main.1", 8)
    assert list(module.computations) == ["inner", "main.1"]
    assert module.computations["inner"].root.name == "q"
    assert list(module.computations["inner"].operations) == ["p", "q", "last"]
    main = module.computations["main.1"]
    assert main.shape(main.root, 0) == Shape("s32", (2, 1))


@pytest.mark.parametrize("text", ["nonsense", "f32[2] %a", "(f32[2] add(%a)"])
def test_unreadable_lines_are_refused(text):
    with pytest.raises(ValueError, match=r"count: operation 'r' .* Expected .* Pass "):
        line(text)
