# SPDX-License-Identifier: Apache-2.0
"""What `auto` chooses, what that costs, and that it holds on hard matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from orthoptax.layout.stacks import map_stacks
from orthoptax.matrix import (
    OURS,
    OURS_16_BITS,
    Eigen,
    Hardware,
    auto,
    block_products,
    cost,
    explain,
    gram_newton_schulz,
    newton_schulz,
    schatten_8,
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
        n, m, compute_dtype=dtype, hardware=kernel if price == "kernel" else Hardware()
    )
    assert about.chosen.flops / about.classic <= bound
    assert about.classic == cost(JORDAN, m, n)
    assert about.chosen.form == ("plain" if m == n else "Gram")


@pytest.mark.parametrize(("m", "n", "bound"), [(128, 128, 0.65), (128, 512, 0.34)])
def test_bounds_by_count(m, n, bound):
    """With the stages of equal form written out, as XLA counts a loop's body once."""
    hardware = Hardware(halve=64)
    about = explain(m, n, hardware=hardware).chosen
    own = {"restarts": about.restarts} if about.form == "Gram" else {}
    polar = (gram_newton_schulz if own else newton_schulz)(
        about.schedule,
        scale=schatten_8(),
        products=block_products(about.levels),
        unroll=True,
        **own,
    )
    x = jnp.asarray(RNG.standard_normal((m, n)), jnp.float32)
    ours, theirs = (jax.jit(f)(x) for f in (auto(hardware=hardware), polar))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    got, want = counted(polar, m, n), about.flops
    assert want <= got <= 1.07 * want  # elementwise: little even at this size
    assert got / cost(JORDAN, m, n) <= 1.07 * bound


@pytest.mark.parametrize("error", [1e-2, 1e-4])
def test_values_end_as_near_to_1_as_asked_in_the_gram_form(error):
    """A few large values, whose Gram matrix rounds the small ones most."""
    (m, n), values = (64, 256), np.full(64, 3.3e-3)
    values[:8] = 1
    u, v = (np.linalg.qr(RNG.standard_normal((k, m)))[0] for k in (m, n))
    polar = auto(error)
    assert explain(m, n, error=error).chosen.form == "Gram"
    got = np.asarray(jax.jit(polar)(jnp.asarray((u * values) @ v.T, jnp.float32)))
    left = np.linalg.svd(got.astype(np.float64), compute_uv=False)
    assert np.abs(left - 1).max() <= error + 2e-5


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
    text = str(explain(512, 2048, hardware=Hardware(eigh=Eigen(10.0, 70.0))))
    first, _, *rows = text.splitlines()
    assert first == "512 x 2048, products rounded to 2^-24, * chosen"
    assert [line.split()[0] for line in rows] == ["plain", "Gram", "eigen"]
    assert "Gram *" in text
    assert "5 17 17" in text
    whys = [line.split("  ")[-1] for line in rows]
    assert whys[0] == "1.63 of the chosen"
    assert whys[1] == "least FLOPs"
    assert whys[2].endswith("10 products alone, 70 products beside other programs")


SHAPES = [(64, 64), (256, 1024), (768, 768), (768, 3072), (1024, 1024), (4096, 4096)]


@pytest.mark.parametrize("error", [None, 1e-6])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu", "default"])
def test_no_platform_is_offered_an_eigendecomposition(platform, error):
    for m, n in SHAPES:
        about = explain(m, n, error=error, platform=platform)
        assert about.chosen.form != "eigen"
        assert about.chosen == auto_of(about.candidates)
        last = about.candidates[-1]
        assert (last.form, last.error) == ("eigen", 0.0)
        assert "other programs" in last.note


def auto_of(candidates):
    return sorted((c for c in candidates if c.offered), key=lambda c: c.flops)[0]


@pytest.mark.parametrize(
    ("price", "form", "note"),
    [
        (4.0, "eigen", "4 products beside other programs"),
        (400.0, "Gram", "400 products beside other programs"),
        (Eigen(4.0), "Gram", "4 products alone, not timed beside other programs"),
        (Eigen(40.0, 4.0), "eigen", "40 products alone, 4 products beside other prog"),
        (Eigen(4.0, 400.0), "Gram", "4 products alone, 400 products beside other pro"),
        (None, "Gram", "not timed beside other programs"),
    ],
)
def test_an_eigendecomposition_is_weighed_by_its_price_under_load(price, form, note):
    about = explain(64, 256, hardware=Hardware(halve=64, eigh=price))
    assert about.chosen.form == form
    assert about.candidates[-1].note.startswith(note)


def test_the_price_of_an_eigendecomposition_is_counted_in_products():
    last = explain(30, 90, hardware=Hardware(eigh=12.0)).candidates[-1]
    products = 2 * 30 * 30 * 90 * 2 + 2 * 30**3 * (12 + 1)  # X X^H, Q X; A = V, l; Q
    assert last.flops == products
    x = jnp.asarray(RNG.normal(size=(2, 5, 9)), jnp.float32)
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    o = jax.jit(auto(hardware=Hardware(eigh=0.0)))(x)
    np.testing.assert_allclose(o, u @ vh, atol=1e-4)  # no schedule comes this near


def test_products_too_inexact_for_an_eigendecomposition():
    free = Hardware(eigh=0.0)
    assert explain(8, 8, hardware=free).chosen.form == "eigen"
    for options in (
        {"compute_dtype": "bfloat16"},
        {"compute_dtype": "float16"},
        {"precision": "high", "platform": "tpu"},
        {"precision": "default", "platform": "cuda"},
    ):
        about = explain(8, 8, hardware=free, **options)
        assert about.chosen.form != "eigen"
        assert about.candidates[-1].note == "products round too much"


# Of 1024 x 4096 in float32: (form, schedule, restarts) by platform and precision.
CHOICES = {
    ("cpu", "default"): ("Gram", OURS, ()),
    ("cpu", "highest"): ("Gram", OURS, ()),
    ("cuda", "default"): ("Gram", OURS_16_BITS, (2,)),
    ("cuda", "high"): ("Gram", OURS_16_BITS, (2,)),
    ("cuda", None): ("Gram", OURS, ()),
    ("tpu", "default"): ("plain", OURS_16_BITS, ()),
    ("tpu", "high"): ("Gram", OURS, (2,)),
    ("tpu", None): ("Gram", OURS, ()),
}


@pytest.mark.parametrize(("platform", "precision"), CHOICES)
def test_the_precision_that_products_have_decides(platform, precision):
    about = explain(1024, 4096, platform=platform, precision=precision).chosen
    found = about.form, about.schedule, about.restarts
    assert found == CHOICES[platform, precision]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_one_branch_is_lowered_and_it_is_the_platforms(platform):
    x = jnp.ones((16, 64))
    lower = lambda f: jax.jit(f).trace(x).lower(lowering_platforms=(platform,))
    text = lower(auto(precision="default")).as_text()
    about = explain(16, 64, precision="default", platform=platform).chosen
    form = gram_newton_schulz if about.form == "Gram" else newton_schulz
    restarts = {"restarts": about.restarts} if about.form == "Gram" else {}
    direct = form(about.schedule, scale=schatten_8(), precision="default", **restarts)
    dots = lambda text: text.count("stablehlo.dot_general")
    assert dots(text) == dots(lower(direct).as_text())


def test_products_are_halved_only_where_that_was_timed_to_gain_or_they_are_large():
    levels = lambda m, n, platform: [
        c.levels for c in explain(m, n, platform=platform).candidates
    ]
    assert levels(512, 512, "cpu") == [0, 0, 0]
    assert levels(1024, 1024, "cpu") == [1, 0, 0]
    assert levels(2048, 2048, "default") == [0, 0, 0]
    assert levels(4096, 4096, "default") == [1, 1, 0]
    x = jax.ShapeDtypeStruct((4096, 16384), jnp.float32)
    lower = lambda f, p: jax.jit(f).trace(x).lower(lowering_platforms=(p,)).as_text()
    dots = lambda f, p: lower(f, p).count("stablehlo.dot_general")
    never, once = auto(hardware=Hardware(halve=2**31)), auto(hardware=Hardware(4096))
    assert dots(auto(), "cpu") == dots(never, "cpu")
    assert dots(auto(), "tpu") == dots(once, "tpu") > dots(never, "tpu")


def test_platforms_that_agree_share_one_branch():
    x = jnp.ones((16, 64))
    assert "platform_index" not in str(jax.make_jaxpr(auto())(x))
    assert "platform_index" in str(jax.make_jaxpr(auto(precision="default"))(x))


def test_a_kernel_is_lowered_once_for_all_stacks_of_a_shape():
    leaf = jax.ShapeDtypeStruct((16, 64), jnp.float32)
    stacks = jax.jit(lambda t: map_stacks(auto(), t, max_leaves=2))
    one, three = (stacks.lower([leaf] * n).as_text() for n in (2, 6))
    loops = [text.count("stablehlo.while") for text in (one, three)]
    assert loops == [2, 4]  # over each stack, and once over the stages in the kernel
    dots = lambda text: text.count("stablehlo.dot_general")
    assert dots(three) == dots(one) > 0


def test_settings_of_the_process_are_not_read():
    x, polar = jnp.ones((8, 64)), auto()
    before = jax.jit(lambda x: polar(x)).lower(x).as_text()
    with jax.default_matmul_precision("bfloat16"):
        assert explain(8, 64).chosen == explain(8, 64, precision="highest").chosen
        assert jax.jit(lambda x: polar(x)).lower(x).as_text() == before


@pytest.mark.parametrize(
    ("shape", "dtype", "rounding"),
    [  # the last of the Gram form in float32: 6e-8 (8.4 x 12.2)^2, as `auto` says
        ((8, 8), "float32", 2e-5),
        ((8, 24), "bfloat16", 2e-2),
        pytest.param((8, 24), "float32", 1e-3, marks=pytest.mark.slow),
        pytest.param((8, 8), "bfloat16", 2e-2, marks=pytest.mark.slow),
    ],
)
def test_hard_matrices(shape, dtype, rounding):
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
    np.testing.assert_allclose(out, loop, atol=rounding)


@pytest.mark.parametrize("cols", [8, 24])
def test_a_batch_is_a_loop_where_nothing_rounds(cols, x64):
    polar = jax.jit(auto(hardware=HALVED))
    mats = hard_matrices(8)
    x = np.stack([np.concatenate([m] * (cols // 8), 1) for m in mats.values()])
    out, loop = polar(jnp.asarray(x)), [polar(jnp.asarray(v)) for v in x]
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, np.stack(loop), rtol=0, atol=1e-10)


def test_twenty_decades():
    polar = jax.jit(small_side_first(auto()))
    x = jnp.asarray(RNG.normal(size=(6, 20)), jnp.float32)
    one = polar(x)
    for power in (-33, 33):  # 10^-10 and 10^10
        np.testing.assert_array_equal(polar(x * 2.0**power), one)


def test_transposes_where_nothing_rounds(x64):
    polar = jax.jit(small_side_first(auto()))
    x = jnp.asarray(RNG.normal(size=(6, 20)))
    one, back = polar(x), polar(x.T).T
    assert one.dtype == np.float64
    np.testing.assert_allclose(back, one, rtol=0, atol=1e-10)


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
        (lambda: explain(4, 4, hardware={}), "explain: hardware for .* leaves other"),
        (lambda: auto(precision="huge"), "rounding: how products of precision='huge'"),
    ],
)
def test_bad_arguments(make, wrong):
    with pytest.raises(ValueError, match=rf"{wrong}.*\. Expected .*\. \w+"):
        make()


def test_schedules_are_those_of_the_table():
    assert explain(4, 4).chosen.schedule == OURS
