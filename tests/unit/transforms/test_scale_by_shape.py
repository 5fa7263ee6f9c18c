# SPDX-License-Identifier: Apache-2.0
"""The rules against the figures of the specification, and who tells them the shape."""

import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax import MatrixView, on_matrices, rules
from orthoptax.transforms import (
    match_rms,
    original,
    original_last_two,
    scale_by_shape,
    spectral,
    spectral_norm,
    unscaled,
)


@pytest.mark.parametrize(
    ("rule", "tall", "wide"),  # (3072, 768) and (768, 3072), worked out by hand
    [
        (match_rms, 11.0851, 11.0851),
        (original, 2.0, 1.0),
        (spectral_norm, 2.0, 0.5),
        (spectral, 55.4256, 55.4256),
        (unscaled, 1.0, 1.0),
    ],
)
def test_rules(rule, tall, wide):
    assert rule(3072, 768, (768, 3072)) == pytest.approx(tall, rel=1e-5)
    assert rule(768, 3072, (3072, 768)) == pytest.approx(wide, rel=1e-5)
    tx = scale_by_shape(rule)
    x = {"w": jnp.ones((2, 12, 3))}
    out, _ = tx.update(x, tx.init(x))
    np.testing.assert_allclose(out["w"], rule(12, 3, (2, 12, 3)), rtol=1e-6)


def test_match_rms_gives_an_orthogonal_matrix_root_mean_square_one_fifth():
    for rows, cols in ((5, 5), (4, 9), (9, 4)):
        q = np.linalg.qr(np.random.default_rng(0).normal(size=(max(rows, cols),) * 2))[
            0
        ]
        o = q[:rows, :cols] * match_rms(rows, cols, ())
        assert np.sqrt(np.mean(o**2)) == pytest.approx(0.2)


def test_a_rule_is_told_the_block_and_the_whole_leaf():
    calls = []

    def rule(rows, cols, shape):
        calls.append((rows, cols, shape))
        return 1.0

    layout = rules(
        ("qkv", MatrixView((-1,), (-2,), blocks=(8, 4, 4))),
        ("conv", MatrixView((0,), (1, 2, 3))),
    )
    params = {"qkv": jnp.ones((3, 6, 16)), "conv": jnp.ones((5, 4, 3, 2))}
    tx = on_matrices(scale_by_shape(rule), layout=layout)
    tx.update(params, tx.init(params))
    qkv, conv = (3, 6, 16), (5, 4, 3, 2)
    assert sorted(calls) == sorted(
        [(5, 24, conv), (8, 6, qkv), (4, 6, qkv), (4, 6, qkv)]
    )


def test_the_rule_of_the_authors_code_reads_the_last_two_axes():
    assert original_last_two(6, 27, (6, 3, 3, 3)) == 1.0
    assert original_last_two(6, 4, (3, 6, 4)) == pytest.approx(1.5**0.5)
