# SPDX-License-Identifier: Apache-2.0
"""The Gram form against the standard one, and where it restarts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import (
    CUBIC5,
    JORDAN,
    NEMO_AOL,
    OURS,
    POLAR_EXPRESS_8,
    POLAR_EXPRESS_101,
    POLAR_EXPRESS_105,
    QUINTIC,
    aol,
    best_restarts,
    fewest_restarts,
    gram_newton_schulz,
    newton_schulz,
    restart_metric,
)

RNG = np.random.default_rng(0)
MIXED = ((2.0, -1.0), (35 / 16, -35 / 16, 21 / 16, -5 / 16), (1.5, -0.5), JORDAN[0])


def dots(polar, x):
    """Operand and result types of every product."""
    text = jax.jit(polar).lower(x).as_text().splitlines()
    return [line.split(" : ")[1] for line in text if "stablehlo.dot_general" in line]


@pytest.mark.parametrize(
    ("schedule", "restarts"),
    [
        (POLAR_EXPRESS_105, None),
        (QUINTIC, ()),
        (CUBIC5, (3,)),
        (MIXED, (1, 2)),
        (POLAR_EXPRESS_8, (0, 4, 2)),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_equals_the_standard_form(schedule, restarts, dtype):
    x = RNG.normal(size=(2, 5, 13)).astype(dtype)
    x += 1j * RNG.normal(size=x.shape) if dtype == "complex128" else 0
    with jax.enable_x64(True):
        got = gram_newton_schulz(schedule, restarts=restarts)(jnp.asarray(x))
        want = newton_schulz(schedule, unroll=True)(jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


def test_gram_form_rounds_small_values_more():
    """What `auto` and CONTRIBUTING say of it, against singular values in float64."""
    left, _, right = np.linalg.svd(RNG.normal(size=(64, 256)), full_matrices=False)
    values = np.where(np.arange(64) % 2, 1e-3, 1.0) / np.sqrt(32 + 32e-6)
    x = jnp.asarray(left * values @ right, jnp.float32)
    for stage in OURS:
        values = values * np.polynomial.polynomial.polyval(values**2, stage)
    want = left * values @ right
    error = lambda polar: np.max(np.abs(polar(x) - want)) / np.max(np.abs(want))
    assert 3e-4 < error(gram_newton_schulz(OURS, restarts=())) < 5e-3
    assert error(gram_newton_schulz(OURS, restarts=(2,))) < 1e-4
    assert error(newton_schulz(OURS)) < 1e-4


@pytest.mark.parametrize("restarts", [(), (2,), (1, 3)])
def test_products_are_few_and_only_two_a_block_are_long(restarts):
    x = jnp.ones((4, 16))
    found = dots(gram_newton_schulz(QUINTIC, restarts=restarts, unroll=True), x)
    blocks, stages = 1 + len(restarts), 5
    assert sum("4x16x" in types for types in found) == 2 * blocks
    assert len(found) == 4 * stages - 3 * blocks + 2 * blocks
    scaled = gram_newton_schulz(QUINTIC, restarts=restarts, scale=aol(), unroll=True)
    assert len(dots(scaled, x)) == len(found)  # the scale's product is the first


def test_square_matrices_take_the_standard_form():
    x = jnp.asarray(RNG.normal(size=(6, 6)), jnp.float32)
    polar = gram_newton_schulz(JORDAN, restarts=())
    assert dots(polar, x) == dots(newton_schulz(JORDAN), x)


def test_the_small_side_stays_in_single_precision():
    x = jnp.ones((4, 16), jnp.bfloat16)
    found = dots(gram_newton_schulz(QUINTIC, compute_dtype=jnp.bfloat16), x)
    for types in found:
        assert types.count("xbf16>") == (2 if "4x16x" in types else 0), types
        assert types.endswith("xf32>")
    assert gram_newton_schulz()(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("schedule", [POLAR_EXPRESS_105, QUINTIC, JORDAN])
def test_default_restarts_survive_rank_deficiency_in_single_precision(schedule):
    x = RNG.normal(size=(24, 3)) @ RNG.normal(size=(3, 96))
    x += 1e-7 * RNG.normal(size=x.shape)
    o = gram_newton_schulz(schedule)(jnp.asarray(x, jnp.float32))
    want = newton_schulz(schedule)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(o, want, rtol=0, atol=2e-3)


def metric(schedule, restarts, eta):
    """The definition, a loop over points in Python's own arithmetic."""
    x, worst = np.logspace(0, -10, 10000).tolist(), 0.0
    q, rho = [1.0] * len(x), [v * v + eta for v in x]
    for i, (a, b, c) in enumerate(schedule):
        if i in restarts and i:
            x = [v * u for v, u in zip(x, q, strict=True)]
            q, rho = [1.0] * len(x), [v * v + eta for v in x]
        z = [a + r * (b + r * c) for r in rho]
        q = [u * v for u, v in zip(q, z, strict=True)]
        rho = [r * v * v for r, v in zip(rho, z, strict=True)]
        worst = max(worst, max(map(abs, q)) / min(map(abs, q)))
    return worst


@pytest.mark.parametrize(
    ("schedule", "restarts", "published"),
    [
        (POLAR_EXPRESS_105, (), 2.69e12),
        (POLAR_EXPRESS_105, (1,), 456),
        (POLAR_EXPRESS_105, (2,), 84.6),
        (POLAR_EXPRESS_105, (1, 2), 60.9),
        (QUINTIC, (1, 3), 34.8),
        (JORDAN, (2, 3), 19.1),
    ],
)
def test_metric(schedule, restarts, published):
    got = restart_metric(schedule, restarts)
    assert got == pytest.approx(published, rel=6e-3)
    assert metric(schedule, restarts, -4e-4) == pytest.approx(got, rel=1e-6)


def test_metric_of_an_overflow_is_infinite():
    assert restart_metric(POLAR_EXPRESS_101) == np.inf


def test_best_and_fewest_restarts():
    assert best_restarts(POLAR_EXPRESS_105, 1) == (2,)
    assert best_restarts(POLAR_EXPRESS_105, 2) == (1, 2)
    assert best_restarts(QUINTIC, 1) == (2,)
    assert best_restarts(JORDAN, 1) == (3,)
    assert fewest_restarts(POLAR_EXPRESS_105) == (2,)
    assert fewest_restarts([(1.5, -0.5)] * 5) == ()
    assert len(fewest_restarts(POLAR_EXPRESS_8)) == 3
    every = (1, 2, 3)  # where a stage alone spreads more, its restart is worth nothing
    least = restart_metric(NEMO_AOL, every, -1e-7)
    assert restart_metric(NEMO_AOL, fewest_restarts(NEMO_AOL), -1e-7) <= least


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: gram_newton_schulz(JORDAN, restarts=(5,)),
         r"gram_newton_schulz: restarts=\(5,\) are not all inside the schedule"),
        (lambda: gram_newton_schulz([]), "gram_newton_schulz: schedule .* not usable"),
        (lambda: restart_metric(JORDAN, (-1,)),
         r"restart_metric: restarts=\(-1,\) are not all inside the schedule"),
        (lambda: best_restarts(JORDAN, 5), "best_restarts: count=5 is out of range"),
        (lambda: best_restarts(POLAR_EXPRESS_101, 1),
         "best_restarts: count=1 leaves the metric at 2.32e.83"),
    ],
)  # fmt: skip
def test_bad_restarts(make, wrong):
    with pytest.raises(ValueError, match=rf"{wrong}\. Expected .*\. \w+"):
        make()


def test_a_scale_must_be_a_function():
    with pytest.raises(TypeError, match=r"scale='aol' is not a function\. Expected"):
        gram_newton_schulz(scale="aol")  # type: ignore[arg-type]
