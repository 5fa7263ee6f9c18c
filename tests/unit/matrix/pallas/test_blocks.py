# SPDX-License-Identifier: Apache-2.0
"""Blocks of symmetric products: they cover the matrix, fit, and save what they can."""

import jax.numpy as jnp
import pytest

from orthoptax.matrix.pallas import blocks

MIB = 2**20
SHAPES = [
    (m, k)
    for m in (1, 129, 256, 300, 768, 1024, 1025, 1536, 2048, 4096, 5000, 8192)
    for k in (1, m, 4 * m, 28672)
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_cover_the_operands_and_fit_both_chips(dtype):
    for m, k in SHAPES:
        cut = blocks(m, k, dtype)
        assert cut.rows - 128 < m <= cut.rows
        assert cut.depth >= k
        assert cut.depth % cut.deep == 0
        assert (cut.rows % 128, cut.side % 128, cut.deep % 128) == (0, 0, 0)
        assert (cut.across - 1) * cut.side < cut.rows <= cut.across * cut.side
        assert cut.vmem <= 40 * MIB


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_depth_is_filled_up_by_less_than_a_register_a_fetch(dtype):
    for m, k in SHAPES:
        cut = blocks(m, k, dtype)
        assert cut.depth - k < 128 * cut.steps


def test_memory_is_that_of_the_buffers():
    # two operands of 1024 x 1024 in bfloat16, each twice; in float32 the added tile and
    # the result, each twice, the sum, and two tiles on their way; one MiB to spare
    assert (
        blocks(8192, 8192, "bfloat16").vmem
        == (2 * 2 * 2 + 4 * (2 + 2 + 1 + 2) + 1) * MIB
    )
    # the same with 512 x 512 of float32, whose products have three parts of 16 bits
    assert blocks(8192, 8192, "float32").vmem == (4 + 3 + 7 + 1) * MIB
    # the whole result, 1024 x 1024; operands 256 columns at a time
    assert blocks(1024, 4096, "float32").vmem == (4 + 3 + 28 + 1) * MIB


@pytest.mark.parametrize(
    ("m", "dtype", "share"),
    [
        (256, "float32", 3 / 4),
        (768, "bfloat16", 2 / 3),
        (1024, "float32", 5 / 8),
        (2048, "bfloat16", 5 / 8),
        (8192, "bfloat16", 9 / 16),
        (8192, "float32", 17 / 32),
    ],
)
def test_share_of_the_products_that_is_computed(m, dtype, share):
    cut = blocks(m, m, dtype)
    assert cut.flops == share * 2 * m**3


def test_a_tile_is_fetched_no_longer_than_it_is_multiplied():
    """By the data sheet of v5e: 197 TFLOP/s in 16 bits, 819 GB/s; six passes a float32.

    Of v5p, 459 TFLOP/s and 2765 GB/s, it then holds too.
    """
    for dtype, size, passes in ("bfloat16", 2, 1), ("float32", 4, 6):
        for m in (1152, 2048, 5000, 8192):
            cut = blocks(m, m, dtype)
            fetched = 2 * cut.side * cut.deep * size / 819e9
            assert passes * 2 * cut.side**2 * cut.deep / 197e12 > fetched


def test_operands_are_read_once_where_the_result_stays():
    assert blocks(1024, 4096, "float32").reads == 1
    # 10 tiles of 512, and each takes 512 of 2048 rows of both operands
    assert blocks(2048, 4096, "bfloat16").reads == 2.5


@pytest.mark.parametrize(("m", "k"), [(0, 8), (8, 0), (8.0, 8)])
def test_sides_are_whole_numbers(m, k):
    with pytest.raises((ValueError, TypeError), match=r"blocks: .* Expected"):
        blocks(m, k, "float32")
