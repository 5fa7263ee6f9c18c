# SPDX-License-Identifier: Apache-2.0
"""How products round, by their definition, and what a table of prices says."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from orthoptax.matrix import HARDWARE, ROUNDINGS, Eigen, Hardware, rounding

UNITS = {
    ("cpu", "default"): -24,
    ("cpu", "high"): -24,
    ("cpu", None): -24,
    ("cuda", "default"): -11,
    ("cuda", "high"): -11,
    ("cuda", "highest"): -24,
    ("rocm", "default"): -11,
    ("tpu", "default"): -8,
    ("tpu", "high"): -16,
    ("tpu", None): -24,
    ("a new one", "default"): -8,
    ("a new one", "high"): -11,
    ("cpu", "BF16_BF16_F32"): -8,
    ("cpu", "TF32_TF32_F32"): -11,
    ("tpu", lax.DotAlgorithmPreset.BF16_BF16_F32_X3): -16,
    ("tpu", lax.Precision.HIGH): -16,
    ("tpu", ("highest", "high")): -16,
}


@pytest.mark.parametrize(("platform", "precision"), UNITS)
def test_units_of_float32(platform, precision):
    unit = rounding(precision=precision, platform=platform)
    assert unit == 2.0 ** UNITS[platform, precision]


@pytest.mark.parametrize(
    ("dtype", "unit"), [("bfloat16", -8), ("float16", -11), ("complex64", -24)]
)
def test_other_dtypes_have_their_own(dtype, unit):
    assert rounding(dtype) == 2.0**unit
    assert rounding("float64", "default", platform="tpu") == 2.0**-53
    assert rounding("bfloat16", "default", platform="tpu") == 2.0**-8


def test_hardware_has_the_last_word():
    old = Hardware(roundings={lax.Precision.DEFAULT: 2.0**-24})  # a GPU without tf32
    assert rounding(precision="default", platform="cuda", hardware=old) == 2.0**-24
    assert rounding(precision="high", platform="cuda", hardware=old) == 2.0**-11


@pytest.mark.parametrize("precision", ["huge", lax.DotAlgorithmPreset.F16_F16_F16])
def test_unknown_precisions(precision):
    with pytest.raises(
        ValueError, match=r"rounding: how .* not known\. Expected .*\. P"
    ):
        rounding(precision=precision)


def test_three_passes_round_as_the_table_says():
    """Parts of 8 bits, the product of the two small ones left out; worst of many."""
    x = np.random.default_rng(0).uniform(1, 2, 20000).astype(np.float32)
    part = lambda v: np.asarray(jnp.asarray(v).astype(jnp.bfloat16), np.float64)
    high = part(x)
    low = part((x - high).astype(np.float32))
    a, b = slice(None, -1), slice(1, None)
    got = high[a] * high[b] + high[a] * low[b] + low[a] * high[b]
    exact = np.float64(x[a]) * x[b]
    error = np.abs(got / exact - 1).max()
    unit = ROUNDINGS["tpu"][lax.Precision.HIGH]
    assert unit / 4 < error <= 2 * unit  # two operands


def test_prices_of_halved_products():
    assert [Hardware(halve=8).levels(m) for m in (7, 8, 15, 16)] == [0, 1, 1, 2]
    assert [Hardware(halve=8).hermitian(m) for m in (4, 8, 16)] == [1, 3 / 4, 5 / 8]
    timed = Hardware(halve=8, halved=(0.9, 0.8))
    assert [timed.hermitian(m) for m in (4, 8, 16)] == [1, 0.9, 0.8]
    kernel = timed._replace(products=object(), price=0.6)
    assert [kernel.hermitian(m) for m in (4, 8, 16)] == [1, 0.6, 0.6]
    assert [kernel.levels(m) for m in (4, 8, 16)] == [0, -1, -1]


def test_the_gram_form_may_halve_from_another_size_on():
    both = Hardware(halve=8, halve_gram=32)
    assert [both.levels(m) for m in (8, 16, 32, 64)] == [1, 2, 2, 2]
    assert [both.levels(m, gram=True) for m in (8, 16, 32, 64)] == [0, 0, 1, 2]
    assert [both.hermitian(m, gram=True) for m in (16, 32, 64)] == [1, 3 / 4, 5 / 8]
    assert Hardware(halve=8).levels(8, gram=True) == 1


def test_a_number_is_a_price_to_be_weighed_by():
    assert Hardware(eigh=10.0).eigen() == Eigen(None, 10.0)
    assert Hardware().eigen() == Eigen(None, None)
    assert Hardware(eigh=Eigen(7.0)).eigen() == Eigen(7.0, None)


def test_tables_cover_what_auto_asks():
    for table, platform in itertools.product((HARDWARE, ROUNDINGS), ("default", "cpu")):
        assert platform in table
    assert all(set(units) == set(lax.Precision) for units in ROUNDINGS.values())
