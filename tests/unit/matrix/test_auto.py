# SPDX-License-Identifier: Apache-2.0
"""What `auto` chooses, what that costs, and that it holds on hard matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from orthoptax.matrix import (
    OURS,
    OURS_16_BITS,
    Hardware,
    auto,
    block_products,
    cost,
    explain,
    small_side_first,
)
from orthoptax.matrix.inner import Inner
from orthoptax.matrix.schedules import JORDAN
from orthoptax.optimizers.muon import muon
from tests.zoo import hard_matrices

RNG = np.random.default_rng(0)
HALVED = Hardware(halve=8)


def counted(polar, m, n):
    """FLOPs of a program without loops, counted by XLA."""
    x = jnp.ones((m, n))
    return jax.jit(polar).lower(x).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("m", "n", "dtype", "price", "bound"),
    [
        (1024, 1024, "float32", "blocks", 0.65),
        (1024, 1024, "float32", "kernel", 0.57),
        (1024, 4096, "float32", "blocks", 0.34),
        (1024, 4096, "float32", "kernel", 0.29),
        (1024, 1024, "bfloat16", "blocks", 0.65),
        (1024, 1024, "bfloat16", "kernel", 0.57),
        (1024, 4096, "bfloat16", "blocks", 0.45),
        (1024, 4096, "bfloat16", "kernel", 0.39),
    ],
)
def test_bounds_by_formula(m, n, dtype, price, bound):
    kernel = Hardware(products=block_products(2), price=0.5)
    about = explain(
        n, m, compute_dtype=dtype, hardware=kernel if price == "kernel" else None
    )
    assert about.chosen.flops / about.classic <= bound
    assert about.classic == cost(JORDAN, m, n)
    assert about.chosen.form == ("plain" if m == n else "Gram")


@pytest.mark.parametrize(("m", "n", "bound"), [(128, 128, 0.65), (128, 512, 0.34)])
def test_bounds_by_count(m, n, bound):
    """Our stages are all unequal, so there is no loop in the way."""
    hardware = Hardware(halve=64)
    got = counted(auto(hardware=hardware), m, n)
    want = explain(m, n, hardware=hardware).chosen.flops
    assert want <= got <= 1.07 * want  # elementwise: little even at this size
    assert got / cost(JORDAN, m, n) <= 1.07 * bound


def test_16_bit_products_take_their_schedule_and_restarts():
    wide = explain(64, 512, compute_dtype="bfloat16").chosen
    assert (wide.form, wide.restarts) == ("Gram", (2,))
    assert wide.schedule == OURS_16_BITS
    assert max(wide.degrees) == 9
    assert explain(64, 512).chosen.restarts == ()


@pytest.mark.parametrize("error", [0.01, 1e-4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_error_is_kept(error, dtype):
    about = explain(8, 8, error=error, compute_dtype=dtype).chosen
    x = np.geomspace(0.0025, 1, 4001)
    for stage in about.schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    assert np.abs(x - 1).max() <= about.error <= error


def test_explanation_is_a_table():
    text = str(explain(512, 2048))
    assert text.splitlines()[0] == "512 x 2048, * chosen"
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["plain", "Gram"]
    assert "Gram *" in text
    assert "9 17 9" in text


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((8, 8), "float32"),
        ((8, 24), "bfloat16"),
        pytest.param((8, 24), "float32", marks=pytest.mark.slow),
        pytest.param((8, 8), "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_hard_matrices(shape, dtype):
    polar = jax.jit(auto(compute_dtype=dtype, hardware=HALVED))
    mats = hard_matrices(8)
    x = np.stack([np.concatenate([m] * (shape[1] // 8), 1) for m in mats.values()])
    x = jnp.asarray(x, jnp.float32)
    out = np.asarray(polar(x), np.float64)
    assert np.isfinite(out).all()
    norms = np.linalg.norm(out, 2, axis=(1, 2))
    assert norms.max() <= 1.35
    named = dict(zip(mats, norms, strict=True))
    assert named.pop("zero") == 0
    assert min(named.values()) >= 0.8
    loop = np.stack([polar(v) for v in x])
    np.testing.assert_allclose(out, loop, atol=2e-2 if dtype == "bfloat16" else 2e-5)


def test_twenty_decades_and_transposes():
    polar = jax.jit(small_side_first(auto()))
    x = jnp.asarray(RNG.normal(size=(6, 20)), jnp.float32)
    one = polar(x)
    for power in (-33, 33):  # 10^-10 and 10^10
        np.testing.assert_array_equal(polar(x * 2.0**power), one)
    back = jax.jit(small_side_first(auto()))(x.T).T
    np.testing.assert_allclose(back, one, rtol=0, atol=2e-5)


def test_columns_over_a_mesh(x64):
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("tp",))
    polar, spec = auto(hardware=HALVED), P(None, None, "tp")
    x = jnp.asarray(RNG.normal(size=(2, 8, 32)))
    cut = jax.shard_map(
        lambda x: polar(x, inner=Inner("tp")), mesh=mesh, in_specs=spec, out_specs=spec
    )
    np.testing.assert_allclose(jax.jit(cut)(x), jax.jit(polar)(x), atol=1e-11)


def test_the_platform_is_that_of_the_program():
    table = {"cpu": Hardware(halve=10**9), "default": HALVED}
    x = jnp.ones((16, 32))
    here = jax.jit(auto(hardware=table)).lower(x).as_text()
    plain = jax.jit(auto(hardware=Hardware(halve=10**9))).lower(x).as_text()
    count = lambda text: text.count("stablehlo.dot_general")
    assert count(here) == count(plain)
    there = jax.jit(auto(hardware=table)).trace(x).lower(lowering_platforms=("tpu",))
    assert count(there.as_text()) > count(here)


def test_a_step_of_muon():
    params = {"a": {"kernel": jnp.ones((8, 16))}, "b": {"kernel": jnp.ones((16, 8))}}
    tx = muon(0.02, polar=auto())
    grads = jax.tree.map(
        lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), params
    )
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    for update in jax.tree.leaves(updates):
        s = np.linalg.svd(np.asarray(update, np.float64), compute_uv=False)
        assert s.max() / s.min() < 1.3


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: auto(1e-9), "auto: error=1e-09 is out of range"),
        (lambda: auto(hardware={"cpu": HALVED}), "auto: hardware for .* leaves other"),
        (lambda: explain(0, 4), "explain: rows=0 is out of range"),
    ],
)
def test_bad_arguments(make, wrong):
    with pytest.raises(ValueError, match=rf"{wrong}.*\. Expected .*\. \w+"):
        make()


def test_schedules_are_those_of_the_table():
    assert explain(4, 4).chosen.schedule == OURS
