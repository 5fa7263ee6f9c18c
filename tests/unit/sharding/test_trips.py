# SPDX-License-Identifier: Apache-2.0
"""Lengths of loops: the compiler's note, or a counter."""

import pytest

from orthoptax.sharding.compiled.counting import count

STATE = "(s32[]{:T(128)}, f32[4,4]{1,0:T(8,128)}, s32[]{:T(128)})"
PRODUCT = 2 * 4**3


def loop(
    start="0",
    step="%next = s32[] add(%i, %one)",
    by="1",
    test="compare(%i, %n), direction=LT",
    limit="%n = s32[]{:T(128)} constant(5)",
    kept="%kept",
    config="",
):
    """A loop as the compiler for TPU writes it, with a product in its body."""
    return count(f"""
%body (s: {STATE}) -> {STATE} {{
  %one = s32[]{{:T(128)}} constant({by})
  %s = {STATE} parameter(0)
  %entry = s32[]{{:T(128)}} get-tuple-element(%s), index=0
  %i = s32[]{{:T(128)S(6)}} copy(%entry)
  {step}
  %x = f32[4,4]{{1,0}} get-tuple-element(%s), index=1
  %kept = s32[]{{:T(128)}} get-tuple-element(%s), index=2
  %y = f32[4,4]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}
  ROOT %out = {STATE} tuple(%next, %y, {kept})
}}

%condition (s: {STATE}) -> pred[] {{
  %s = {STATE} parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%s), index=0
  {limit}
  ROOT %lt = pred[]{{:T(512)}} {test}
}}

ENTRY %main (x: f32[4,4], m: s32[]) -> f32[4,4] {{
  %x = f32[4,4]{{1,0}} parameter(0)
  %m = s32[] parameter(1)
  %zero = s32[] constant({start})
  %first = s32[] copy(%zero)
  %seven = s32[] constant(7)
  %state = {STATE} tuple(%first, %x, %seven)
  %loop = {STATE} while(%state), condition=%condition, body=%body{config}
  ROOT %y = f32[4,4]{{1,0}} get-tuple-element(%loop), index=1
}}""")


CARRIED = "%n = s32[] get-tuple-element(%s), index=2"
KNOWN = [
    ({}, 5),
    ({"test": "compare(%n, %i), direction=GT"}, 5),
    ({"test": "compare(%i, %n), direction=LE"}, 6),
    ({"test": "compare(%i, %n), direction=NE"}, 5),
    ({"start": "2", "by": "2"}, 2),
    ({"start": "9"}, 0),
    ({"limit": CARRIED}, 7),
    ({"step": "%next = s32[] add(%one, %i)", "by": "3"}, 2),
    ({"start": "12", "by": "-3", "test": "compare(%i, %n), direction=GT"}, 3),
    ({"start": "11", "by": "-3", "test": "compare(%i, %n), direction=GE"}, 3),
    ({"start": "11", "by": "-3", "test": "compare(%n, %i), direction=LE"}, 3),
    ({"start": "12", "by": "-3", "test": "compare(%n, %i), direction=LT"}, 3),
    ({"config": ', backend_config={"known_trip_count":{"n":"8"},"x":{"n":"2"}}'}, 8),
    ({"config": r', backend_config="{\"known_trip_count\":{\"n\":\"9\"}}"'}, 9),
]


@pytest.mark.parametrize(("how", "trips"), KNOWN)
def test_length(how, trips):
    total = loop(**how)
    assert (total.flops, total.unknown_trips) == (trips * PRODUCT, 0)


OTHER = f"""%pair = {STATE} tuple(%i, %x, %one)
  %other = s32[] get-tuple-element(%pair), index=2
  %next = s32[] add(%i, %one)"""
UNEQUAL = "compare(%i, %n), direction=NE"
UNKNOWN = {
    "starts anywhere": {"start": "nowhere"},
    "ends anywhere": {"limit": CARRIED, "kept": "%next"},
    "ends in another tuple": {"limit": CARRIED, "kept": "%other", "step": OTHER},
    "counts by no constant": {"step": "%next = s32[] add(%i, %i)"},
    "does not count": {"step": "%next = s32[] multiply(%i, %one)"},
    "stands still": {"by": "0"},
    "runs away": {"by": "-1"},
    "misses its end": {"by": "2", "test": UNEQUAL},
    "has passed its end": {"start": "9", "test": UNEQUAL},
    "stands before its end": {"by": "0", "test": UNEQUAL},
    "ends otherwise": {"test": "and(%i, %n)"},
    "compares results": {"limit": "%n = s32[] multiply(%i, %i)"},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_length(name):
    total = loop(**UNKNOWN[name])
    assert (total.flops, total.unknown_trips) == (PRODUCT, 1)


def test_a_condition_runs_once_more():
    product = """%x = f32[4,4] get-tuple-element(%s), index=1
  %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={1}
  %n = s32[] constant(5)"""
    assert loop(limit=product).flops == (5 + 6) * PRODUCT
