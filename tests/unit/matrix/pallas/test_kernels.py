# SPDX-License-Identifier: Apache-2.0
"""The kernels in interpret mode, on small blocks, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from orthoptax.matrix.pallas import Blocks
from orthoptax.matrix.pallas.kernels import pair_of, rectangle, symmetric

CUTS = {
    "one block": Blocks(128, 256, 128, 128, True, 0),
    "strips": Blocks(384, 256, 128, 256, True, 0),
    "a narrow last strip": Blocks(384, 256, 256, 128, True, 0),
    "one tile": Blocks(128, 256, 128, 128, False, 0),
    "even tiles": Blocks(256, 256, 128, 128, False, 0),
    "odd tiles": Blocks(384, 256, 128, 256, False, 0),
    "a tile that hangs over": Blocks(384, 256, 256, 128, False, 0),
}
WEIGHTS = np.array([[1.5, -0.5, 2.0], [0.25, 3.0, -1.0]])


def run(cut, pair, plus, weights, **how):
    options = {"compute_dtype": jnp.float32, "dtype": jnp.float32}
    options |= {"precision": lax.Precision.HIGHEST, "interpret": True, **how}
    given = jnp.asarray(weights, jnp.float32).reshape(-1, 1, 3)
    kernel = jax.jit(lambda pair, plus, w: symmetric(pair, plus, w, cut=cut, **options))
    return np.asarray(kernel(pair, plus, given), np.float64)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def lower_mirrored(x):
    return np.tril(x) + np.tril(x, -1).swapaxes(-1, -2)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_the_lower_triangle_is_computed_and_mirrored(cut, rng):
    """Of operands that do not commute, so that the triangles differ."""
    x, y = normal(rng, 2, cut.rows, cut.depth), normal(rng, 2, cut.rows, cut.depth)
    plus = normal(rng, 2, cut.rows, cut.rows)
    found = run(cut, [x, y], plus, WEIGHTS)
    w = WEIGHTS[:, :, None, None]
    full = w[:, 0] * (x.astype(np.float64) @ y.astype(np.float64).swapaxes(-1, -2))
    full = full + w[:, 1] * plus + w[:, 2] * np.eye(cut.rows)
    np.testing.assert_allclose(found, lower_mirrored(full), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found, found.swapaxes(-1, -2))


@pytest.mark.parametrize("name", ["a narrow last strip", "odd tiles"])
def test_one_operand_stands_for_both(name, rng):
    cut = CUTS[name]
    x = normal(rng, 2, cut.rows, cut.depth)
    found = run(
        cut, [x], None, [2.0, 7.0, 1.0]
    )  # nothing is added, whatever its weight
    full = 2 * (x.astype(np.float64) @ x.astype(np.float64).swapaxes(-1, -2))
    np.testing.assert_allclose(found, full + np.eye(cut.rows), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["strips", "even tiles"])
def test_matrices_of_a_batch_do_not_meet(name, rng):
    cut = CUTS[name]
    x = normal(rng, 3, cut.rows, cut.depth)
    x[1, 0, 0] = np.nan
    found = run(cut, [x], None, [1.0, 0.0, 0.0])
    assert np.all(np.isfinite(found[[0, 2]]))
    alone = run(cut, [x[2:]], None, [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(found[2:], alone)


def rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16)).astype(np.float64)


@pytest.mark.parametrize("cut", [CUTS["strips"], CUTS["even tiles"]])
def test_precisions_round_operands_as_they_say(cut, rng):
    x = normal(rng, 1, cut.rows, cut.depth)
    exact = x.astype(np.float64) @ x.astype(np.float64).swapaxes(-1, -2)
    coarse = rounded(x) @ rounded(x).swapaxes(-1, -2)
    ones = [1.0, 0.0, 0.0]
    for how in (
        {"precision": lax.Precision.DEFAULT},
        {"compute_dtype": jnp.bfloat16},
    ):
        np.testing.assert_allclose(run(cut, [x], None, ones, **how), coarse, atol=1e-3)
    # 16-bit parts x = t + l: what is left out is l l^T, about 2^-17 of each product
    t, low = rounded(x), rounded(x - rounded(x))
    three = t @ t.swapaxes(-1, -2) + t @ low.swapaxes(-1, -2) + low @ t.swapaxes(-1, -2)
    high = run(cut, [x], None, ones, precision=lax.Precision.HIGH)
    np.testing.assert_allclose(high, three, rtol=0, atol=2e-4)
    assert np.abs(coarse - exact).max() > 100 * np.abs(high - exact).max()


def test_results_are_rounded_once(rng):
    cut = CUTS["even tiles"]
    x = normal(rng, 1, cut.rows, cut.depth)
    how = {"dtype": jnp.bfloat16}
    short = run(cut, [x], None, [1.0, 0.0, 0.0], **how)
    long = run(cut, [x], None, [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(short, rounded(long))


@pytest.mark.parametrize("across", range(1, 10))
def test_each_block_on_and_below_the_diagonal_has_one_cell(across):
    rows, columns = rectangle(across)
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    found = [tuple(map(int, pair_of(r, c, across))) for r, c in cells]
    assert sorted(found) == [(i, j) for i in range(across) for j in range(i + 1)]
