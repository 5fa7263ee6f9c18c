# SPDX-License-Identifier: Apache-2.0
"""Evaluation forms against the polynomial, its products counted, its terms bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orthoptax.matrix import JORDAN, composition, gram_newton_schulz, newton_schulz
from orthoptax.matrix.forms import evaluate, forms, inner_products, value
from orthoptax.matrix.inner import local

SEQUENCES = {
    "3, 5, 9, 9": ((3, 5, 9, 9), 1.8e-3, [0, 1, 2, 2]),
    "9, 17, 9": ((9, 17, 9), 1.8e-3, [2, 3, 2]),
    "5, 17, 17": ((5, 17, 17), 2.4e-3, [1, 3, 3]),
    "17, 17": ((17, 17), 2.3e-3, [3, 3]),
    "7, 11, 13": ((7, 11, 13), 1e-2, [2, 3, 3]),
    "5, 15": ((5, 15), 1e-2, [1, 6]),  # no form of its own: Horner's rule
}
RNG = np.random.default_rng(0)


def schedule_of(name):
    degrees, lower, _ = SEQUENCES[name]
    return composition(degrees, lower=lower, widen=1.005)


def inputs(schedule):
    """(stage, squares of what it meets) of every stage, from the definition."""
    x = np.concatenate([[0.0], np.geomspace(1e-4, 1, 400)])
    for stage in schedule:
        yield np.asarray(stage), np.sort(x * x)
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_form_is_the_polynomial(name):
    schedule = schedule_of(name)
    for form, (stage, a) in zip(forms(schedule), inputs(schedule), strict=True):
        want = np.polyval(stage[::-1], a)
        np.testing.assert_allclose(value(form, a), want, rtol=0, atol=1e-9 * stage[0])


@pytest.mark.parametrize("name", ["9, 17, 9", "7, 11, 13"])
def test_of_matrices_too_and_from_a_square(name):
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    found = forms(schedule_of(name))

    def both(gram):
        square = gram @ gram
        return [[evaluate(f, gram, local, s) for s in (None, square)] for f in found]

    s = np.linspace(0, 1, 5)
    with jax.enable_x64(True):
        for results, form in zip(
            jax.jit(both)(jnp.asarray(turn * s @ turn.T)), found, strict=True
        ):
            want = turn * (value(form, s) - form.alpha) @ turn.T
            for z in results:
                np.testing.assert_allclose(z, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SEQUENCES)
def test_products_are_as_few_as_said(name):
    for form, want in zip(forms(schedule_of(name)), SEQUENCES[name][2], strict=True):
        gram = jnp.eye(3)
        text = str(jax.make_jaxpr(lambda g, f=form: evaluate(f, g, local))(gram))
        assert text.count("dot_general") == inner_products(form) == want
        with_square = jax.make_jaxpr(lambda g, f=form: evaluate(f, g, local, g))(gram)
        assert str(with_square).count("dot_general") == max(want - 1, 0)


@pytest.mark.parametrize(
    "name", ["3, 5, 9, 9", "9, 17, 9", "5, 17, 17", "17, 17", "7, 11, 13"]
)
def test_no_terms_that_cancel(name):
    """Operands rounded to 8 bits change q by a few times that of q(0); Horner: 10^4."""
    rng = np.random.default_rng(1)
    for form, (stage, a) in zip(
        forms(schedule_of(name)), inputs(schedule_of(name)), strict=True
    ):
        want = np.polyval(stage[::-1], a)
        worst = 0.0
        for _ in range(20):
            worst = max(worst, np.max(np.abs(rounded(form, a, rng) - want)))
        assert worst < 12 * 2.0**-8 * stage[0]


def rounded(form, a, rng):
    """q at numbers, every operand of a product off by up to half of 2^-8 of itself."""
    noisy = lambda v: v * (1 + rng.uniform(-(2.0**-9), 2.0**-9, v.shape))
    if not form.base:
        total = form.out[-1] * a
        for c in form.out[-2::-1]:
            total = c * a + noisy(total) * noisy(a)
        return form.alpha + total
    y = [np.ones_like(a), form.base[0] + form.base[1] * a]
    dot = lambda c: sum(k * v for k, v in zip(c, y, strict=True))
    for left, right in zip(form.left, form.right, strict=True):
        y.append(noisy(dot(left)) * noisy(dot(right)))
    return form.alpha + dot(form.out)


@pytest.mark.parametrize("kernel", [newton_schulz, gram_newton_schulz])
def test_kernels_follow_the_scalar_recurrence(kernel):
    schedule = schedule_of("9, 17, 9")
    s = np.geomspace(1, 1e-3, 6)
    u, v = (np.linalg.qr(RNG.normal(size=(k, 6)))[0] for k in (6, 9))
    x = s / np.linalg.norm(s)
    for stage in schedule:
        x = sum(c * x ** (2 * j + 1) for j, c in enumerate(stage))
    with jax.enable_x64(True):
        out = jax.jit(kernel(schedule))(jnp.asarray(u * s @ v.T))
    np.testing.assert_allclose(out, u * x @ v.T, rtol=0, atol=1e-8)


def test_a_stage_that_has_no_real_form_takes_horners_rule():
    stage = (1.0, -0.5, 0.1, 0.3, -0.2, 0.1, 0.2, -0.1, -0.3)  # falls in the end
    (form,) = forms([stage])
    assert not form.base
    assert form.out == stage[1:]


def test_unequal_stages_are_written_out_and_equal_neighbours_loop():
    x = jnp.ones((4, 8))
    schedule = (*JORDAN[:3], *schedule_of("9, 17, 9"), *JORDAN[:1])
    text = jax.jit(newton_schulz(schedule)).lower(x).as_text()
    assert text.count("stablehlo.while") == 1
    assert text.count("stablehlo.dot_general") == 3 + (4 + 5 + 4) + 3
