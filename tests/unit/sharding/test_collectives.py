# SPDX-License-Identifier: Apache-2.0
"""Collectives as compilers write them: halves, tuples, groups, fusions of TPU."""

import pytest

from orthoptax.sharding.compiled.counting import count

ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  ROOT %sum = f32[]{:T(128)} add(%a, %a)
}
"""


def one(*lines, before="", devices=8):
    """The only collective of a program of these lines."""
    body = "\n".join(f"  {line}" for line in lines)
    main = f"ENTRY %main (x: f32[64,8]) -> f32[] {{\n{body}\n}}"
    text = f"HloModule f, num_partitions={devices}\n{ADD}{before}\n{main}"
    (found,) = count(text).collectives
    return found


X = "%x = f32[64,8]{1,0:T(8,128)S(1)} parameter(0)"
Y = "%y = bf16[16]{0:T(1024)(128)(2,1)} parameter(1)"
SIZE, SMALL = 64 * 8 * 4, 16 * 2
GROUPS = "channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}"
LAYOUT = "{1,0:T(8,128)(2,1)S(1)}"

WHOLE = {  # what compilers write: (kind, bytes of the result)
    f"f32[256,8]{LAYOUT} all-gather(%x), {GROUPS}, dimensions={{0}}": (
        "all-gather", 4 * SIZE,
    ),
    f"f32[16,8] reduce-scatter(f32[64,8]{LAYOUT} %x), {GROUPS}, to_apply=%add": (
        "reduce-scatter", SIZE // 4,
    ),
    f"(f32[64,8]{LAYOUT}, bf16[16]{{0}}) all-reduce(%x, %y), {GROUPS}, to_apply=%add": (
        "all-reduce", SIZE + SMALL,
    ),
    f"(f32[16,8]{LAYOUT}, f32[16,8]{{1,0}}, /*index=2*/f32[16,8], f32[16,8])"
    f" all-to-all(%x, %x, %x, %x), {GROUPS}": ("all-to-all", SIZE),
    f"f32[16,4,8]{{2,0,1:T(8,128)}} all-to-all(%x), {GROUPS}, dimensions={{1}}": (
        "all-to-all", SIZE,
    ),
    f"f32[64,8]{{1,0}} ragged-all-to-all(%x, %x, %y, %y, %y, %y), {GROUPS}": (
        "ragged-all-to-all", SIZE,
    ),
    f"f32[64,8]{{1,0}} collective-broadcast(%x), {GROUPS}": (
        "collective-broadcast", SIZE,
    ),
}  # fmt: skip
RECEIVED = {
    "all-gather": 3 / 4,
    "all-reduce": 2 * 3 / 4,
    "all-to-all": 3 / 4,
    "collective-broadcast": 1,
    "ragged-all-to-all": 3 / 4,
    "reduce-scatter": 3,
}


@pytest.mark.parametrize("line", WHOLE)
def test_one_operation(line):
    found = one(X, Y, f"ROOT %z = {line}")
    assert (found.kind, found.result_bytes) == WHOLE[line]
    assert found.group_size == 4
    assert found.ring_bytes == RECEIVED[found.kind] * found.result_bytes


HALVES = {  # kind: the first half, with operands and contexts among its results
    "all-gather": "(f32[64,8]{1,0}, f32[256,8]{1,0}) all-gather-start(%x)",
    "all-gather of two": "((f32[64,8]{1,0}, bf16[16]{0}), (f32[256,8]{1,0}, bf16[64]))"
    " all-gather-start(%x, %y)",
    "all-reduce": "f32[64,8]{1,0} all-reduce-start(%x)",
    "all-reduce of two": "(f32[64,8]{1,0}, bf16[16]{0}) all-reduce-start(%x, %y)",
    "all-reduce wrapped": "((f32[64,8]{1,0}), f32[64,8]{1,0}, u32[]{:S(2)})"
    " all-reduce-start(%x)",
    "all-to-all": "((f32[64,8]{1,0}), f32[16,4,8]{2,0,1:T(8,128)}, u32[]{:S(2)},"
    " u32[]{:S(2)}) all-to-all-start(%x)",
    "reduce-scatter": "((f32[64,8]{1,0}), f32[16,8]{1,0}) reduce-scatter-start(%x)",
}
SIZES = {
    "all-gather": 4 * SIZE,
    "all-gather of two": 4 * (SIZE + SMALL),
    "all-reduce": SIZE,
    "all-reduce of two": SIZE + SMALL,
    "all-reduce wrapped": SIZE,
    "all-to-all": SIZE,
    "reduce-scatter": SIZE // 4,
}


@pytest.mark.parametrize("name", HALVES)
def test_two_halves_are_one(name):
    kind = name.split()[0]
    done = f"ROOT %done = f32[] {kind}-done(%start)"
    found = one(X, Y, f"%start = {HALVES[name]}, {GROUPS}, to_apply=%add", done)
    assert (found.kind, found.result_bytes) == (kind, SIZES[name])
    assert found.group_size == 4


def test_a_wrapped_collective_is_one():
    wrapped = f"""
%wrapped (p: f32[64,8]) -> f32[16,4,8] {{
  %p = f32[64,8]{{1,0}} parameter(0)
  ROOT %inner = f32[16,4,8]{{2,1,0}} all-to-all(%p), {GROUPS}, dimensions={{1}}
}}
"""
    kind = "((f32[64,8]{1,0}), f32[16,4,8]{2,1,0}, s32[])"
    found = one(
        X,
        f"%start = {kind} async-start(%x), calls=%wrapped",
        f"%update = {kind} async-update(%start), calls=%wrapped",
        "ROOT %done = f32[16,4,8]{2,1,0} async-done(%update), calls=%wrapped",
        before=wrapped,
    )
    assert (found.kind, found.result_bytes, found.times) == ("all-to-all", SIZE, 1)


def test_permutation():
    found = one(
        X,
        "%start = (f32[64,8]{1,0}, f32[64,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)})"
        " collective-permute-start(%x), channel_id=1,"
        " source_target_pairs={{0,3},{3,6},{6,0},{1,4}}",
        "ROOT %done = f32[64,8]{1,0} collective-permute-done(%start)",
    )
    assert found.kind == "collective-permute"
    assert found.result_bytes == found.ring_bytes == SIZE
    assert found.group_size == 3


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("{{0},{1,2,3}}", 3),
        ("{}", 6),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("[1,8]<=[2,2,2]T(2,0,1)", 8),
        ("mesh['a'=2,'b'=3] {'b'}", 3),
        ("mesh['a'=2,'b'=3] {'a','b'}", 6),
        ("mesh['a'=2,'b'=12] {'a','b':(3)4}", 8),
    ],
)
def test_group_sizes(groups, size):
    line = f"all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add"
    assert one(X, f"ROOT %y = f32[64,8]{{1,0}} {line}", devices=6).group_size == size


def test_unknown_groups_are_refused():
    with pytest.raises(
        ValueError, match=r"devices of all-gather 'y' .* Expected .* Pass "
    ):
        one(X, "ROOT %y = f32[64,8]{1,0} all-gather(%x), replica_groups=somehow")


def test_tpu_fusions_of_one_collective():
    """Start, a product it runs beside, and end: each names the all-gather."""
    gather = f'all-gather(%p), {GROUPS}, frontend_attributes={{chain_id="0"}}'
    call = 'custom-call(%g), custom_call_target="AsyncCollective'
    part = f"  %p = f32[64,8]{{1,0}} parameter(0)\n  %g = f32[256,8]{{1,0}} {gather}\n"
    before = f"""
%first (p: f32[64,8]) -> (f32[64,8], f32[256,8]) {{
{part}  ROOT %c = (f32[64,8]{{1,0}}, f32[256,8]{{1,0}}, s32[2]{{0:S(4)}}) {call}Start"
}}
%second (p: f32[64,8]) -> f32[256,8] {{
{part}  ROOT %c = f32[256,8]{{1,0}} copy(%g)
}}
%third (p: f32[64,8]) -> f32[256,8] {{
{part}  ROOT %c = f32[256,8]{{1,0}} {call}Done"
}}
"""
    found = one(
        X,
        "%a = (f32[64,8]{1,0}, f32[256,8]{1,0}) fusion(%x), kind=kCustom, calls=%first",
        "%b = f32[256,8]{1,0} fusion(%x), kind=kOutput, calls=%second",
        "ROOT %c = f32[256,8]{1,0} fusion(%x), kind=kCustom, calls=%third",
        before=before,
    )
    assert (found.kind, found.result_bytes, found.times) == ("all-gather", 4 * SIZE, 1)


def test_tpu_fusion_that_is_a_reduce_scatter():
    before = f"""
%all-reduce-scatter (p: f32[64,8]) -> f32[16,8] {{
  %p = f32[64,8]{{1,0}} parameter(0)
  %r = f32[64,8]{{1,0}} all-reduce(%p), {GROUPS}, to_apply=%add
  %i = s32[] constant(0)
  ROOT %d = f32[16,8]{{1,0}} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={{16,8}}
}}
"""
    line = "fusion(%x, %x), kind=kCustom, calls=%all-reduce-scatter"
    found = one(X, f"ROOT %y = f32[16,8]{{1,0:T(8,128)}} {line}", before=before)
    assert (found.kind, found.result_bytes) == ("reduce-scatter", SIZE // 4)
    assert found.ring_bytes == 3 * SIZE // 4


@pytest.mark.parametrize(
    "branches",
    [
        "branch_computations={%less, %more}",
        "true_computation=%more, false_computation=%less",
    ],
)
def test_a_conditional_takes_the_most_of_each(branches):
    """Most operations and most bytes, even if no branch has both."""
    before = f"""
%less (p: f32[64,8]) -> f32[64,64] {{
  %p = f32[64,8]{{1,0}} parameter(0)
  %u = f32[64,8]{{1,0}} custom-call(%p), custom_call_target="unknown"
  %r = f32[64,8]{{1,0}} all-reduce(%p), {GROUPS}, to_apply=%add
  %s = f32[8,8]{{1,0}} slice(%p), slice={{[0:8], [0:8]}}
  %c = f32[8,8]{{1,0}} cholesky(%s)
  ROOT %d = f32[64,64]{{1,0}} dot(%p, %p), lhs_contracting_dims={{1}}
}}
%more (p: f32[64,8]) -> f32[8,8] {{
  %p = f32[64,8]{{1,0}} parameter(0)
  %s = f32[8]{{0}} all-reduce(%p), {GROUPS}, to_apply=%add
  %d = f32[8,8]{{1,0}} dot(%p, %p), lhs_contracting_dims={{0}}
  %e = f32[64,64]{{1,0}} dot(%p, %p), lhs_contracting_dims={{1}}
  ROOT %f = f32[64,64]{{1,0}} cholesky(%e)
}}
"""
    total = count(f"""{ADD}{before}
ENTRY %main (i: s32[], p: f32[64,8]) -> f32[] {{
  %i = s32[] parameter(0)
  %p = f32[64,8]{{1,0}} parameter(1)
  ROOT %c = f32[64,64]{{1,0}} conditional(%i, %p, %p), {branches}
}}""")
    assert total.factorization_flops == 64**3 / 3
    assert total.flops == 64**3 / 3 + 2 * (64 * 64 * 8 + 8 * 8 * 64)
    assert [c.result_bytes for c in total.in_branches] == [SIZE]
    assert total.not_counted == ("unknown",)
