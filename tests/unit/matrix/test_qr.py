# SPDX-License-Identifier: Apache-2.0
"""QR kernels against what makes a Q: orthonormal columns, the span, in order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from orthoptax.matrix import (
    Inner,
    cholesky_qr,
    cholesky_qr2,
    householder_qr,
    randomized_cholesky_qr,
)
from tests.zoo import QUICKLY

KERNELS = {
    "householder": householder_qr(),
    "cholesky": cholesky_qr(),
    "cholesky2": cholesky_qr2(),
    "randomized": randomized_cholesky_qr(multiple_of=8),
}
P, Q = 40, 4
BATCH = 8


@functools.partial(jax.jit, compiler_options=QUICKLY)
def every(x):
    """All kernels in one program; tests pass (BATCH, P, Q), so few are compiled."""
    return {name: qr(x) for name, qr in KERNELS.items()}


def matrix_with(condition, seed=0):
    """A (P, Q) matrix of this condition number, in float64."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(P, Q)))[0]
    v = np.linalg.qr(rng.normal(size=(Q, Q)))[0]
    return (u * np.geomspace(1, 1 / condition, Q)) @ v


def off_orthonormal(q):
    q = np.asarray(q, np.float64)
    return np.abs(np.swapaxes(q, -1, -2) @ q - np.eye(q.shape[-1])).max(axis=(-2, -1))


def triangle(q, x):
    """R = Q^T P, whose lower part must vanish."""
    return np.swapaxes(np.asarray(q, np.float64), -1, -2) @ x


@pytest.mark.parametrize("name", KERNELS)
def test_against_numpy_up_to_signs(name):
    x = np.stack([matrix_with(c, seed) for seed, c in enumerate([1.0, 30.0] * 4)])
    with jax.enable_x64(True):
        q = np.asarray(every(jnp.asarray(x))[name])
    want = np.stack([np.linalg.qr(m)[0] for m in x])
    assert off_orthonormal(q).max() < 1e-12
    r = triangle(q, x)
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-12)
    np.testing.assert_allclose(np.abs(q), np.abs(want), atol=1e-11)
    np.testing.assert_allclose(q @ r, x, atol=1e-13)  # the span
    if name.startswith("cholesky"):
        assert np.diagonal(r, axis1=-2, axis2=-1).min() > 0


CONDITIONS = np.asarray([1.0, 1e2, 1e3, 1e4, 3e4, 1e5, 1e6, 1e10])
BOUND = 5e-5  # the randomized form beyond 1/eps in float32; the others stay below 1e-6


@pytest.mark.parametrize("name", ["householder", "randomized"])
def test_orthonormal_at_any_condition_in_single_precision(name):
    x = jnp.asarray([matrix_with(c) for c in CONDITIONS], jnp.float32)
    assert off_orthonormal(every(x)[name]).max() < BOUND


def test_cholesky_degrades_with_the_square_of_the_condition_and_twice_repairs_it():
    x = jnp.asarray([matrix_with(c) for c in CONDITIONS], jnp.float32)
    once = off_orthonormal(every(x)["cholesky"])
    twice = off_orthonormal(every(x)["cholesky2"])
    assert once[0] < 1e-6
    assert 1e-6 < once[1] < 1e-3
    assert 1e-4 < once[2] < 5e-2
    # At 3e4 it does not break down and would be off by 0.9; Householder stands in.
    assert once[3:].max() < BOUND
    assert twice.max() < BOUND


@pytest.mark.parametrize("name", KERNELS)
def test_a_failed_matrix_leaves_its_neighbours_their_own_result(name):
    good, other, failed = matrix_with(3.0), matrix_with(2.0), matrix_with(1e9)
    dependent, broken = matrix_with(1.0), matrix_with(1.0)
    dependent[:, 2] = 0
    broken[5, 1] = np.nan
    zero = np.zeros((P, Q))
    mixed = [good, failed, zero, other, dependent, broken, good, other]
    q = np.asarray(every(jnp.asarray(mixed, jnp.float32))[name])
    np.testing.assert_array_equal(q[2], 0)
    assert np.isnan(q[5]).any()
    assert off_orthonormal(q[[0, 1, 3, 4]]).max() < BOUND
    # Without a failure in the batch: the same numbers, with the same signs.
    calm = np.asarray(every(jnp.asarray([good, other] * 4, jnp.float32))[name])
    np.testing.assert_allclose(q[[0, 3]], calm[:2], atol=1e-6)


def test_householder_is_computed_only_where_something_failed():
    jaxpr = jax.make_jaxpr(cholesky_qr())(jnp.ones((P, Q))).jaxpr
    outside = [str(e.primitive) for e in jaxpr.eqns]
    assert "cholesky" in outside
    (cond,) = [e for e in jaxpr.eqns if str(e.primitive) == "cond"]
    branches = [str(branch) for branch in cond.params["branches"]]
    assert sum(" qr[" in text for text in branches) == 1
    rest = [str(e) for e in jaxpr.eqns if e is not cond]
    assert not any(" qr[" in text for text in rest)


@pytest.mark.parametrize("name", KERNELS)
def test_any_size_in_single_precision(name):
    x = matrix_with(5.0).astype(np.float32)
    sizes = np.float32([1, 1e-30, 1e30, 1e-3, 7, 1e10, 1e-10, 1e-33])
    q = np.asarray(every(jnp.asarray(sizes[:, None, None] * x))[name])
    np.testing.assert_allclose(q, np.broadcast_to(q[0], q.shape), atol=3e-6)


def test_dtype_shape_and_strict_promotion():
    x = jax.ShapeDtypeStruct((2, P, Q), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for qr in KERNELS.values():
            assert jax.eval_shape(qr, x) == x


def test_sixteen_bits_are_rounded_only_when_they_leave():
    x = jnp.asarray(matrix_with(2.0), jnp.bfloat16)
    qr = jax.jit(cholesky_qr(), compiler_options=QUICKLY)
    want = qr(x.astype(jnp.float32))
    np.testing.assert_array_equal(qr(x), want.astype(jnp.bfloat16))


@pytest.mark.parametrize("cols", [P, P + 2])
def test_no_more_rows_than_columns_is_householder(cols):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(P, cols)), jnp.float32)
    for q in every(x).values():
        np.testing.assert_allclose(q, jnp.linalg.qr(x)[0], atol=1e-6)


def test_complex_columns():
    x = np.stack([matrix_with(3.0) + 1j * matrix_with(2.0, 1)] * 2)
    for q in every(jnp.asarray(x, jnp.complex64)).values():
        adjoint = np.swapaxes(np.conj(q), -1, -2)
        np.testing.assert_allclose(adjoint @ q, np.stack([np.eye(Q)] * 2), atol=3e-6)
        np.testing.assert_allclose(q @ (adjoint @ x), x, atol=3e-6)


def test_the_result_does_not_show_the_sketch():
    sketch = jax.random.normal(jax.random.key(3), (9, P))
    draws = [
        randomized_cholesky_qr(multiple_of=8),
        randomized_cholesky_qr(multiple_of=8, key=jax.random.key(5)),
        randomized_cholesky_qr(sketch=sketch),
    ]
    run = jax.jit(lambda x: [qr(x) for qr in draws], compiler_options=QUICKLY)
    results = np.abs(run(jnp.asarray(matrix_with(50.0), jnp.float32)))
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    np.testing.assert_allclose(results[1:], results[[0, 0]], atol=1e-5)


def test_a_sketch_with_as_many_rows_as_the_matrix_is_householder():
    x = jnp.asarray(matrix_with(2.0), jnp.float32)
    np.testing.assert_array_equal(randomized_cholesky_qr()(x), jnp.linalg.qr(x)[0])


def test_rows_over_a_mesh_axis_equal_whole_matrices():
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(None, "tp")
    x = jnp.asarray([matrix_with(2.0), matrix_with(1e6)] * 4, jnp.float32)

    def local(x):
        return {name: qr(x, inner=Inner("tp")) for name, qr in KERNELS.items()}

    cut = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)
    parts, whole = jax.jit(cut, compiler_options=QUICKLY)(x), every(x)
    for name in KERNELS:
        np.testing.assert_allclose(
            np.abs(parts[name][0]), np.abs(whole[name][0]), atol=3e-6
        )
        assert off_orthonormal(parts[name]).max() < BOUND


SUMS = {  # shapes that are summed over the axis
    "householder": [],
    "cholesky": [(Q, Q)],
    "cholesky2": [(Q, Q), (Q, Q)],
    "randomized": [(8, Q), (Q, Q)],
}


@pytest.mark.parametrize("name", KERNELS)
def test_what_devices_exchange(name):
    run = lambda x: KERNELS[name](x, inner=Inner("tp"))
    jaxpr = jax.make_jaxpr(run, axis_env=[("tp", 4)])(jnp.ones((P // 4, Q))).jaxpr
    out = lambda word: [
        e.outvars[0].aval.shape for e in jaxpr.eqns if word in str(e.primitive)
    ]
    assert out("psum") == SUMS[name]
    assert set(out("pmax")) == {(1, 1)}  # the largest entry
    # Whether Householder's Q is needed shows in the numbers alone, so those that may
    # need it gather; the randomized one never does.
    assert len(out("all_gather")) == (name != "randomized")
    assert not out("cond")


def test_bad_sketches_and_numbers():
    with pytest.raises(
        ValueError,
        match=r"randomized_cholesky_qr: sketch of shape \(9, 3\) does .*\. Ex",
    ):
        randomized_cholesky_qr(sketch=jnp.ones((9, 3)))(jnp.ones((P, Q)))
    with pytest.raises(ValueError, match=r"oversample=0\.5 is out of range\. Expected"):
        randomized_cholesky_qr(0.5)
    with pytest.raises(ValueError, match=r"multiple_of=0 is out of range\. Expected"):
        randomized_cholesky_qr(multiple_of=0)
