# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks/polar.py` is made of: matrices, names in its picture, documents."""

import importlib
import itertools
from pathlib import Path

import numpy as np
import optax
import pytest
from jax import numpy as jnp

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_matrices_have_their_spectra_and_factors(load):
    matrices = load("_matrices")
    found = {s.spectrum: s for s in matrices.samples((2, 12, 20), matrices.SPECTRA)}
    assert list(found) == list(matrices.SPECTRA)
    for name, sample in found.items():
        u, s, vt = np.linalg.svd(sample.x, full_matrices=False)
        expected = matrices.SPECTRA[name](12, 20)
        assert np.all(np.diff(expected) <= 0)
        np.testing.assert_allclose(s, [expected, expected], atol=1e-12)
        r = sample.rank
        exact = u[..., :r] @ vt[..., :r, :]
        close = 1e-9 / expected[r - 1]  # rounding of x over its smallest value
        np.testing.assert_allclose(sample.factor, exact, atol=max(1e-9, close))
        assert not np.allclose(sample.x[0], sample.x[1])  # each has its own U and V


def test_shapes_are_divided_to_run(load):
    matrices = load("_matrices")
    (full,) = matrices.shapes_of("moe", quick=False)
    assert full.full == (64, 1024, 2048)
    assert full.run == (64, 256, 512)
    (quick,) = matrices.shapes_of("moe", quick=True)
    assert quick.run == quick.full == (64, 32, 64)


def test_given_matrices_are_taken_by_shape(load, monkeypatch):
    matrices = load("_matrices")
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((6, 4)))
    recorded = {
        "a": (3 * q.T).astype(np.float32),
        "b": rng.standard_normal((4, 4)).astype(np.float32),
        "c": (2 * q.T).astype(np.float32),
    }
    monkeypatch.setitem(matrices.GIVEN, "recorded", lambda: recorded)
    square, wide = matrices.shapes_of("recorded", quick=False)
    assert (square.full, wide.full) == ((1, 4, 4), (2, 4, 6))
    (sample,) = matrices.given("recorded", wide)
    np.testing.assert_allclose(sample.factor, [q.T, q.T], atol=1e-6)
    np.testing.assert_array_equal(sample.x[1], recorded["c"])
    assert sample.rank == 4


@pytest.mark.parametrize("preset", ["standard", "dion"])
def test_presets_are_those_of_optax(load, preset):
    polars = load("_polars")
    state = optax.contrib.muon(1.0, ns_coeffs=preset).init({"w": jnp.ones((2, 2))})
    theirs = state.inner_states["muon"].inner_state[0].ns_coeffs
    ours = {"standard": polars.STANDARD, "dion": polars.DION}[preset]
    np.testing.assert_array_equal(theirs, np.asarray(ours, np.float32))


def test_operations_of_by_gain_are_those_of_its_branch(load):
    polars = load("_polars")
    # One direction: gain 1; 16 equal ones: 16^(1/2) / 16^(1/8) = 2.83.
    for values, gain in ((np.arange(16) == 0, 1.0), (np.ones(16), 1.6)):
        x = jnp.asarray(np.diag(values), jnp.float32)[None]
        expected = polars.matrix.cost(polars.matrix.BY_GAIN[gain], 16, 16)
        assert polars.by_gain_takes(x, (1, 16, 16)) == expected


@pytest.mark.slow
def test_names_are_beside_their_points_and_apart(load):
    picture = load("_picture")
    rng = np.random.default_rng(0)
    crowd = [
        picture.Point(f"a kernel, {i}", by, *place)
        for i, (by, place) in enumerate(
            zip(
                itertools.cycle(picture.COLOURS),
                rng.normal((1, 0.4), (0.2, 0.05), (24, 2)),
                strict=False,
            )
        )
    ]
    twice = [*crowd, picture.Point("the same place", "ours", *crowd[0][2:])]
    figure = picture.draw({"crowd": twice}, picture.Words("title", "x", "y"))
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == len(twice)
    for a, b in itertools.combinations(boxes, 2):
        assert picture.overlap(a, b) < 1e-3
    inside = axis.get_window_extent()
    for box in boxes:
        assert picture.overlap(box, inside) == pytest.approx(box.width * box.height)


def test_a_document_is_rewritten_between_its_marks_only(load, tmp_path):
    report = load("_report")
    file = tmp_path / "doc.md"
    file.write_text("before\n<!-- a -->\nold\n<!-- /a -->\n<!-- b -->\n<!-- /b -->\n")
    report.rewrite(file, "a", "new")
    text = "before\n<!-- a -->\n\nnew\n\n<!-- /a -->\n<!-- b -->\n<!-- /b -->\n"
    assert file.read_text() == text
    with pytest.raises(SystemExit, match="lacks <!-- c -->"):
        report.around(file, "c")
