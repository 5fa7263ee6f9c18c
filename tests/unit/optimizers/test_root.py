# SPDX-License-Identifier: Apache-2.0
"""ROOT against its recursion in float64 NumPy, and what it does to outliers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax import MatrixView, root, rules
from orthoptax.matrix import svd
from orthoptax.transforms import original

RNG = np.random.default_rng(0)
SHAPES = {"tall": (7, 4), "wide": (4, 7), "stack": (2, 7, 4)}
PARAMS = {k: RNG.normal(size=s) for k, s in SHAPES.items()}
GRADS = [{k: RNG.normal(size=s) for k, s in SHAPES.items()} for _ in range(3)]
ROWS_FIRST = rules(("", MatrixView((-2,), (-1,))))


def polar(x):
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def updates(tx, grads=GRADS, dtype="float32"):
    cast = lambda tree: {k: jnp.asarray(v, dtype) for k, v in tree.items()}
    params, out = cast(PARAMS), []
    state, update = tx.init(params), jax.jit(tx.update)
    for g in grads:
        u, state = update(cast(g), state, params)
        out.append({k: np.asarray(v, np.float64) for k, v in u.items()})
    return out


@pytest.mark.parametrize("nesterov", [True, False])
def test_against_numpy(nesterov):
    lr, b1, q, eps, wd = 0.03, 0.9, 0.7, 0.2, 0.4
    with jax.enable_x64(True):
        tx = root(
            lr, b1=b1, quantile=q, eps=eps, nesterov=nesterov, weight_decay=wd,
            polar=svd(), layout=ROWS_FIRST,
        )  # fmt: skip
        ours = updates(tx, dtype="float64")
    for name, w in PARAMS.items():
        m = 0
        for g, u in zip(GRADS, ours, strict=True):
            m = b1 * m + g[name]  # the sum: eps is not scaled with it
            x = b1 * m + g[name] if nesterov else m
            tau = np.quantile(np.abs(x), q, axis=(-2, -1), keepdims=True) + eps
            o = polar(np.clip(x, -tau, tau))
            want = -lr * (0.2 * np.sqrt(max(w.shape[-2:])) * o + wd * w)
            np.testing.assert_allclose(u[name], want, rtol=1e-8, err_msg=name)


def test_the_size_of_an_outlier_does_not_matter():
    def spiked(size):
        grads = {k: g.copy() for k, g in GRADS[0].items()}
        for g in grads.values():
            g[..., 0, 0] = size
        return grads

    tx = root(0.1, b1=0.0, layout=ROWS_FIRST)  # no memory: every step is a first one
    small, large = updates(tx, [spiked(1e3), spiked(1e6)])
    for name in SHAPES:
        np.testing.assert_array_equal(small[name], large[name])


def test_the_polar_function_sees_the_short_side_first():
    used = []

    def spy(x):
        used.append(x.shape[-2:])
        return x

    updates(root(0.1, polar=spy, layout=ROWS_FIRST), GRADS[:1])
    assert set(used) == {(4, 7)}  # short side first, whatever the matrix


def constants(shape):
    """The arrays that the traced step holds."""
    tx = root(0.1)
    step = lambda g: tx.update(g, tx.init(g), g)[0]
    params = {"dense": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}
    return str(jax.make_jaxpr(step)(params).consts)


def test_the_authors_table_is_the_default():
    assert "3.4509" in constants((3072, 2048))
    assert "3.4445" in constants((3072, 2047))


def test_a_shape_rule_of_another_rate_needs_rest():
    match = r"root: shape_rule=original has .*\. Expected rest=.*\. Pass"
    with pytest.raises(ValueError, match=match):
        root(0.02, shape_rule=original)
    root(0.02, shape_rule=original, rest=optax.adamw(3e-4))


@pytest.mark.parametrize(("name", "value"), [("quantile", 1.0), ("eps", -0.1)])
def test_bad_numbers(name, value):
    match = rf"{name}={value} is out of range\. Expected .*\. Change {name}"
    with pytest.raises(ValueError, match=match):
        root(0.1, **{name: value})
