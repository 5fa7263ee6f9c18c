# SPDX-License-Identifier: Apache-2.0
"""Turbo-Muon: its iteration in float64 NumPy, and Muon with another polar function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import MatrixView, muon, rules, turbo_muon
from orthoptax.matrix import svd
from orthoptax.transforms import original

RNG = np.random.default_rng(0)
SHAPES = {"tall": (7, 4), "wide": (4, 7)}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(2)]
ROWS_FIRST = rules(("", MatrixView((-2,), (-1,))))
STAGES = [  # the last four of five, as published
    (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012),
]  # fmt: skip


def iteration(x):
    """Rows over the root of the Gram matrix's row sums, then four stages."""
    if x.shape[0] > x.shape[1]:
        return iteration(x.T).T
    x = x / np.sqrt(np.sum(np.abs(x @ x.T), axis=1, keepdims=True))
    for a, b, c in STAGES:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def updates(tx, dtype="float32"):
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params, out = cast(GRADS[0]), []
    state, update = tx.init(params), jax.jit(tx.update)
    for g in GRADS:
        u, state = update(cast(g), state, params)
        out.append(u)
    return out


def test_against_numpy():
    lr, b1, wd = 0.03, 0.9, 0.4
    with jax.enable_x64(True):
        tx = turbo_muon(lr, b1=b1, weight_decay=wd, layout=ROWS_FIRST)
        ours = updates(tx, "float64")
    for name, w in GRADS[0].items():
        m = 0
        for g, u in zip(GRADS, ours, strict=True):
            m = b1 * m + (1 - b1) * g[name]
            o = iteration(b1 * m + (1 - b1) * g[name])
            want = -lr * (0.2 * np.sqrt(7) * o + wd * w)
            np.testing.assert_allclose(u[name], want, rtol=1e-9, err_msg=name)


def test_with_a_polar_function_given_it_is_muon():
    options = {"polar": svd(), "nesterov": False, "layout": ROWS_FIRST}
    for a, b in zip(
        *(updates(tx(0.1, **options)) for tx in (turbo_muon, muon)), strict=True
    ):
        for name in SHAPES:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_shape_rule_of_another_rate_needs_rest():
    match = r"turbo_muon: shape_rule=original has .*\. Expected rest=.*\. Pass"
    with pytest.raises(ValueError, match=match):
        turbo_muon(0.02, shape_rule=original)
    turbo_muon(0.02, shape_rule=original, rest=optax.adamw(3e-4))


def test_a_bad_rate_is_reported_under_its_own_name():
    with pytest.raises(ValueError, match=r"^turbo_muon: .*\. Expected .*\. Change"):
        turbo_muon(-1.0)
