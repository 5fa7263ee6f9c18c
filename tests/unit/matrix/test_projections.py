# SPDX-License-Identifier: Apache-2.0
"""Projections of weights against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import radial_brake, spectral_cap, sphere, stiefel, svd

RNG = np.random.default_rng(0)
OLD, NEW = RNG.normal(size=(2, 3, 5, 4))  # two stacks of three matrices
START = np.asarray([1.0, 2.0, 5.0]).reshape(3, 1, 1)
NORM = lambda x: np.sqrt(np.sum(x**2, axis=(-2, -1), keepdims=True))


def in_float64(projection, *arrays):
    with jax.enable_x64(True):
        return np.asarray(projection(*(jnp.asarray(x) for x in arrays)))


def test_sphere_of_the_first_norm():
    got = in_float64(sphere(), NEW, OLD, START)
    np.testing.assert_allclose(got, START * NEW / NORM(NEW), rtol=1e-12)


def test_sphere_of_a_given_radius():
    got = in_float64(sphere(0.7), NEW, NEW, START)
    np.testing.assert_allclose(got, 0.7 * NEW / NORM(NEW), rtol=1e-12)


def test_weights_without_a_step_stay_bit_for_bit():
    new = OLD.copy()
    new[1] = NEW[1]
    got = in_float64(sphere(), new, OLD, START)
    np.testing.assert_array_equal(got[[0, 2]], OLD[[0, 2]])
    np.testing.assert_allclose(NORM(got)[1], 2, rtol=1e-12)


def test_a_zero_arrival_stays_zero():
    zero = np.zeros((3, 5, 4))
    for projection in (sphere(), sphere(2.0), stiefel(), radial_brake()):
        assert not np.any(in_float64(projection, zero, OLD, START))


def test_stiefel_is_the_nearest_orthonormal_matrix():
    got = in_float64(stiefel(svd()), NEW, OLD, START)
    eye = np.broadcast_to(np.eye(4), (3, 4, 4))
    np.testing.assert_allclose(got.swapaxes(-1, -2) @ got, eye, atol=1e-12)
    inner = lambda x: np.sum(NEW * x, axis=(-2, -1))
    for _ in range(20):  # no other one agrees more with the arrival
        other = np.linalg.qr(RNG.normal(size=(3, 5, 4)))[0]
        assert np.all(inner(other) < inner(got))


def test_stiefel_by_default_ends_near_the_set():
    s = np.linalg.svd(in_float64(stiefel(), NEW, OLD, START), compute_uv=False)
    assert s.min() > 0.95
    assert s.max() < 1.05


def test_spectral_cap_lowers_singular_values_alone():
    u, s, vt = np.linalg.svd(NEW, full_matrices=False)
    cap = float(np.median(s))
    want = (u * np.minimum(s, cap)[:, None, :]) @ vt
    got = in_float64(spectral_cap(cap, polar=svd()), NEW, OLD, START)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("outward", "inward"), [(0.5, 1.0), (0.0, 0.25)])
def test_radial_brake(outward, inward):
    was, now = NORM(OLD), NORM(NEW)
    assert np.any(now > was)
    assert np.any(now < was)
    share = np.where(now > was, outward, inward)
    got = in_float64(radial_brake(outward, inward), NEW, OLD, START)
    np.testing.assert_allclose(NORM(got), was + share * (now - was), rtol=1e-12)
    np.testing.assert_allclose(got / NORM(got), NEW / now, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: sphere(-1.0), r"sphere: radius=-1.0 is out of range"),
        (lambda: radial_brake(-1.0), r"radial_brake: outward=-1.0 is out of range"),
        (lambda: radial_brake(inward=np.nan), r"radial_brake: inward=nan is out of"),
    ],
)
def test_numbers_out_of_range(make, match):
    with pytest.raises(ValueError, match=match + r".*\. Expected .*\. Change "):
        make()


def test_what_is_no_function():
    match = r"stiefel: polar=3 is not a function\. Expected a function\. Pass for "
    with pytest.raises(TypeError, match=match):
        stiefel(3)
