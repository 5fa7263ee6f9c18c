# SPDX-License-Identifier: Apache-2.0
"""The certified gain: a scale for nothing, and the schedule it allows."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from orthoptax.matrix import (
    BY_GAIN,
    JORDAN,
    OURS,
    OURS_16_BITS,
    block_products,
    by_gain,
    cost,
    gram_newton_schulz,
    newton_schulz,
    quiet_restarts,
    schatten_8,
)
from orthoptax.matrix.chosen import BY_GAIN_16_BITS
from orthoptax.matrix.gains import gain_of
from orthoptax.matrix.inner import Inner, local
from orthoptax.sharding import count

RNG = np.random.default_rng(0)


def with_values(s, cols):
    u, v = (np.linalg.qr(RNG.normal(size=(k, len(s))))[0] for k in (len(s), cols))
    return u, v, u * s @ v.T


def values(schedule, x):
    for stage in schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    return x


def eighth(s):
    return np.sum(s**8) ** 0.125


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_scale_against_numpy(dtype):
    x = RNG.normal(size=(3, 4, 9)).astype(dtype)
    x = x * (1 + 1j) if dtype == "complex128" else x
    s = np.linalg.svd(x, compute_uv=False)
    want = x / np.stack([eighth(v) for v in s])[:, None, None]
    with jax.enable_x64(True):
        got, gram, square = jax.jit(lambda x: schatten_8()(x, local))(jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(gram, want @ want.conj().mT, atol=1e-12)
    np.testing.assert_allclose(square, np.linalg.matrix_power(gram, 2), atol=1e-12)


def test_scale_of_zero_of_nan_and_of_any_size():
    x = jnp.asarray(RNG.normal(size=(4, 3, 5)), jnp.float32)
    x = x.at[0].set(0).at[1, 0, 0].set(jnp.nan).at[2].multiply(2.0**-90)
    out = jax.jit(lambda x: schatten_8()(x, local))(x)
    for part in out:
        assert np.all(part[0] == 0)
        assert np.isnan(part[1]).any()
        assert np.isfinite(part[2:]).all()
    top = np.linalg.svd(np.asarray(out.x[2:]), compute_uv=False)[:, 0]
    assert np.all((top > 0.7) & (top <= 1.00001))


@pytest.mark.parametrize("products", [None, block_products(1)])
@pytest.mark.parametrize("kernel", [newton_schulz, gram_newton_schulz])
def test_it_costs_no_product(kernel, products):
    x = jnp.ones((6, 24))
    unrolled = {"unroll": True} if kernel is newton_schulz else {"restarts": (2,)}

    def dots(**options):
        polar = kernel(OURS, products=products, **unrolled, **options)
        return str(jax.make_jaxpr(polar)(x)).count("dot_general")

    assert dots(scale=schatten_8()) == dots()


@pytest.mark.parametrize("schedule", [OURS, JORDAN])
def test_iteration_from_the_square_follows_the_recurrence(schedule):
    s = np.geomspace(1, 1e-3, 6)
    u, v, x = with_values(s, 9)
    want = u * values(schedule, s / eighth(s)) @ v.T
    with jax.enable_x64(True):
        for kernel in (newton_schulz, gram_newton_schulz):
            out = jax.jit(kernel(schedule, scale=schatten_8()))(jnp.asarray(x))
            np.testing.assert_allclose(out, want, rtol=0, atol=1e-9)


def test_each_matrix_takes_the_schedule_of_its_gain():
    spectra = [
        np.ones(64),  # gain 64^(3/8) = 4.8
        np.r_[1, np.full(63, 1e-3)],  # 1
        np.r_[np.ones(6), np.zeros(58)],  # 6^(3/8) = 1.96
    ]
    made = [with_values(s, 80) for s in spectra]
    x = np.stack([x for *_, x in made])
    with jax.enable_x64(True):
        out = np.asarray(jax.jit(by_gain())(jnp.asarray(x)))
        gains = np.asarray(gain_of(jnp.asarray(x)))
    for i, (s, (u, v, _), passed) in enumerate(
        zip(spectra, made, (4.0, 1.0, 1.6), strict=True)
    ):
        assert gains[i] == pytest.approx(np.linalg.norm(s) / eighth(s))
        want = u * values(BY_GAIN[passed], s / eighth(s)) @ v.T
        np.testing.assert_allclose(out[i], want, rtol=0, atol=1e-9)


def test_batches_are_loops_and_zero_stays_zero():
    x = jnp.asarray(RNG.normal(size=(2, 2, 5, 9)), jnp.float32).at[0, 0].set(0)
    table = {1: JORDAN[:2], 1.2: JORDAN[:1]}
    polar = jax.jit(by_gain(table, products=block_products(1)))
    out = polar(x)
    assert np.all(out[0, 0] == 0)
    np.testing.assert_allclose(out[1, 0], polar(x[1, 0]), rtol=0, atol=1e-6)
    assert jax.eval_shape(by_gain(), x.astype("bfloat16")).dtype == jnp.bfloat16


BRANCHES = [
    pytest.param(dtype, g, n, marks=[pytest.mark.slow] * (g not in (1, 8) or n < 64))
    for dtype, table in (("float32", BY_GAIN), ("bfloat16", BY_GAIN_16_BITS))
    for g in table
    for n in (16, 64)
]


@pytest.mark.parametrize(("dtype", "gain", "n"), BRANCHES)
def test_the_cost_of_a_branch_by_count(dtype, gain, n):
    schedule = (BY_GAIN_16_BITS if dtype == "bfloat16" else BY_GAIN)[gain]
    options = {"compute_dtype": dtype, "products": block_products(2)}
    alone = jax.jit(by_gain({1: schedule}, **options)).lower(jnp.ones((16, n)))
    starts = quiet_restarts(schedule, long=float(jnp.finfo(dtype).eps) / 2)
    forms = {"gram": True, "restarts": starts}, {}
    want = min(cost(schedule, 16, n, price=5 / 8, **form) for form in forms)
    assert count(alone.compile()).flops == want


@pytest.mark.parametrize(
    ("precision", "table", "wide", "restarts"),
    [
        (None, BY_GAIN, True, 0),
        ("high", BY_GAIN, False, 0),  # 11 bits: degree 17 stands the plain form alone
        ("default", BY_GAIN_16_BITS, False, 0),  # a small side of 8 bits
        ("BF16_BF16_F32_X3", BY_GAIN, True, 1),
    ],
)
def test_the_precision_decides_as_where_it_is_least_exact(
    precision, table, wide, restarts
):
    run = by_gain({1: table[1]}, precision=precision)
    text = str(jax.make_jaxpr(run)(jnp.ones((6, 24))))
    stages = len(list(itertools.groupby(table[1], len)))  # those of one degree loop
    long = text.count("f32[6,24] = dot_general")
    assert long == (1 + restarts if wide else stages)
    dots = lambda t: str(
        jax.make_jaxpr(by_gain(t, precision=precision))(jnp.ones((6, 24)))
    ).count("dot_general")
    assert dots(None) == dots(table)


def test_bad_tables():
    with pytest.raises(ValueError, match=r"by_gain: a table for gains \[2\] leaves"):
        by_gain({2: OURS})
    with pytest.raises(ValueError, match=r"by_gain: gain=0.5 is out of range"):
        by_gain({0.5: OURS, 1: OURS})


def test_wide_matrices_take_the_gram_form_and_square_ones_the_plain():
    def dots(m, n):
        branch = by_gain({1: OURS}, products=block_products(1))
        text = str(jax.make_jaxpr(branch)(jnp.ones((m, n))))
        return sum(f"f32[{m},{n}] = dot_general" in line for line in text.split("\n"))

    assert dots(6, 24) == 1  # Q X
    assert dots(6, 6) == 2  # of the first stage, and of the loop over two
    wide = by_gain({1: OURS_16_BITS}, compute_dtype=jnp.bfloat16)
    text = str(jax.make_jaxpr(wide)(jnp.ones((6, 24))))
    assert text.count("f32[6,24] = dot_general") == 2  # one restart


@pytest.mark.parametrize("groups", [None, ((0, 1, 2, 3), (4, 5, 6, 7))])
def test_cut_matrices_take_the_branch_that_whole_ones_take(groups):
    spectra = [np.ones(16), np.r_[1, np.full(15, 1e-3)], np.r_[1, 1, 1, np.zeros(13)]]
    passed = (1.6, 1.0, 1.3)  # 16^(3/8) = 2.8, 1, 3^(3/8) = 1.5
    parts = 8 if groups is None else 4
    made = [with_values(s, 32) for s in spectra]
    x = np.stack([x for *_, x in made])
    want = [
        u * values(BY_GAIN[g], s / eighth(s)) @ v.T
        for s, (u, v, _), g in zip(spectra, made, passed, strict=True)
    ]
    if groups is not None:  # each group has matrices of its own, and its own branches
        x, want = np.stack([x, x[::-1]]), np.stack([want, want[::-1]])
    mesh = jax.make_mesh((8,), ("tp",), axis_types=(jax.sharding.AxisType.Auto,))
    inner = Inner("tp", groups=groups)

    def cut(a):
        a = np.stack(np.split(np.asarray(a), parts, axis=-1))
        return a if groups is None else np.concatenate([a[:, 0], a[:, 1]])

    run = jax.jit(
        jax.shard_map(
            lambda y: by_gain()(y[0], inner=inner)[None],
            mesh=mesh,
            in_specs=P("tp"),
            out_specs=P("tp"),
            check_vma=groups is None,
        )
    )
    with jax.enable_x64(True):
        out = run(jnp.asarray(cut(x)))
        np.testing.assert_allclose(out, cut(want), rtol=0, atol=1e-9)
        text = str(jax.make_jaxpr(run)(jnp.asarray(cut(x))))
    assert re.search(r"i32\[\][^=\n]* = pmin", text)  # no device decides by itself
