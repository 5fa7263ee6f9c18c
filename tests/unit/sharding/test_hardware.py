# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math

import jax.numpy as jnp
import pytest

from orthoptax.sharding.planning.hardware import HARDWARE, Hardware, hardware

MINE = Hardware("mine", 1.0, 2.0, 3.0, 4.0, 5.0, "measured")
FIGURES = ("flops_float32", "flops_bfloat16", "hbm_bytes", "hbm_bandwidth")
FIGURES += ("link_bandwidth",)


def test_every_chip_is_known_by_its_own_name_and_says_where_from():
    asked = {"v4", "v5e", "v5p", "v6e", "h100", "h200", "a100", "cpu"}
    assert set(HARDWARE) == asked
    assert {name: chip.name for name, chip in HARDWARE.items()} == {n: n for n in asked}
    assert all(chip.source for chip in HARDWARE.values())


# As the vendors print them: bfloat16 peak in 1e12, memory in GB (or GiB), its bandwidth
# in GB/s, what one chip sends and receives over all its links in GB/s, and how many it
# has; a switch gives all of NVLink to one axis, as if it were two links.
PRINTED = {
    "v5e": (197, 16, 819, 400, 4),
    "v5p": (459, 95, 2765, 1200, 6),
    "v6e": (918, 32, 1638, 800, 4),
    "a100": (312, 80, 2039, 600, 2),
    "h100": (1979 / 2, 80, 3350, 900, 2),
    "h200": (1979 / 2, 141, 4800, 900, 2),
}


@pytest.mark.parametrize("name", PRINTED)
def test_figures_are_the_published_ones(name):
    chip, (flops, size, bandwidth, links, count) = HARDWARE[name], PRINTED[name]
    assert chip.flops_bfloat16 == pytest.approx(flops * 1e12, rel=1e-3)
    assert size * 1e9 <= chip.hbm_bytes <= size * 2**30
    assert chip.hbm_bandwidth == bandwidth * 1e9
    # Two links serve an axis and each sends half of what it carries; the TPU figures
    # are those of the book, which counts 0.9 of what is printed.
    sends = 2 * (links * 1e9 / count / 2)
    assert 0.89 * sends <= chip.link_bandwidth <= sends


def test_figures_without_a_printed_link():
    v4, cpu = HARDWARE["v4"], HARDWARE["cpu"]
    assert (v4.flops_bfloat16, v4.hbm_bytes) == (275e12, 32 * 2**30)
    assert (v4.hbm_bandwidth, v4.link_bandwidth) == (1200e9, 2 * 45e9)
    # 56 cores at 2 GHz, two units of 16 lanes, each a product and a sum; 8 channels of
    # 8 bytes at 4800 MHz, which a copy crosses twice
    assert cpu.flops_float32 == cpu.flops_bfloat16 == 56 * 2e9 * 2 * 16 * 2
    assert cpu.hbm_bandwidth == pytest.approx(8 * 8 * 4.8e9)
    assert cpu.link_bandwidth == cpu.hbm_bandwidth / 2


def test_float32_is_what_precision_highest_costs():
    for name in ("v4", "v5e", "v5p", "v6e"):
        chip = HARDWARE[name]
        assert chip.flops_bfloat16 / chip.flops_float32 == pytest.approx(6)
    assert HARDWARE["a100"].flops_float32 == 19.5e12
    assert HARDWARE["h100"].flops_float32 == HARDWARE["h200"].flops_float32 == 67e12


def test_peak_by_dtype():
    assert MINE.flops("float32") == MINE.flops(jnp.float32) == 1.0
    assert MINE.flops("bfloat16") == MINE.flops(jnp.bfloat16) == 2.0
    assert MINE.flops("float16") == 2.0
    with pytest.raises(
        ValueError,
        match=r"^Hardware.flops: no figure for float64 on "
        r"'mine'. Expected one of float32, bfloat16, float16\. Plan",
    ):
        MINE.flops("float64")  # fmt: skip


def test_figures_of_ones_own_pass_through():
    assert hardware(MINE) is MINE
    assert hardware("v4") is HARDWARE["v4"]
    assert len({*HARDWARE.values(), MINE}) == len(HARDWARE) + 1  # hashable
    with pytest.raises(dataclasses.FrozenInstanceError):
        MINE.hbm_bytes = 1.0  # pyright: ignore


@pytest.mark.parametrize(("name", "kind"), [("v9", ValueError), (5, TypeError)])
def test_an_unknown_chip_is_refused_with_the_known_ones(name, kind):
    known = ", ".join(HARDWARE)
    with pytest.raises(
        kind,
        match=f"^hardware: {name!r} is no chip with known figures"
        rf"\. Expected one of {known}\. Pass one of them, or a Hardware",
    ):
        hardware(name)  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("field", FIGURES)
def test_figures_must_be_positive(field, value):
    with pytest.raises(
        ValueError,
        match=rf"^Hardware: {field}={value} of 'mine' is out "
        rf"of range\. Expected a positive number\. Change {field}\.",
    ):
        dataclasses.replace(MINE, **{field: value})  # fmt: skip
