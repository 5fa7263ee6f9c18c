# SPDX-License-Identifier: Apache-2.0
"""The programs of benchmarks/, each in a process of its own, on the smallest trees."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PROGRAMS = sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
SMALL = {
    program: shlex.split(words)
    for program, words in {
        "budget": "--tasks digits --optimizers adamw aegd --gradients 12 --seeds 1",
        "compile": "--layers 2 --width 16 --large 8 --repeats 1",
        "curvature": "--layers 1 --width 8 --length 8 --batch 1 --steps 1 --repeats 1",
        "gains": "--tasks digits --steps 2",
        "hardware": "--parts eigen stacks --sizes 8 --stacks 2 8 8 --repeats 1",
        "kernels": "--stacks 2 256",
        "optimizers": "--layers 1 --width 8 --repeats 1 --names muon dion",
        "polar": "--shapes 8 16 16 16 --repeats 2 --spectra geometric rank-one "
        "--kernels by_gain classic optax 'optax dion, schatten' svd",
        "replicate": "--claims adago-digits --steps 2 --seeds 2 --rates 1",
        "sharded": "--layers 1 --width 16 --cases FSDP-8 one",
        "step": "--layers 2 --timed 2 --width 16 --repeats 2 "
        "--optimizers 'muon, classic' optax.adamw",
    }.items()
}
FIELDS = ["benchmark", "case", "ours", "reference", "ratio", "unit"]


def run(program: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / f"{program}.py"), *words]
    return subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, timeout=900, check=False
    )


def records(program: str, words: list[str], folder: Path) -> list[dict]:
    """What a program wrote to --json, started from a folder that is not the tree."""
    done = run(program, *words, "--json", "out.jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (
        program in {"compile", "polar", "step"} or "ratio" in done.stdout
    )  # the table's heading
    text = (folder / "out.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """small(program): the records of one run, kept for the module."""
    kept: dict[str, list[dict]] = {}

    def small(program: str) -> list[dict]:
        if program not in kept:
            folder = tmp_path_factory.mktemp(program)
            kept[program] = records(program, SMALL[program], folder)
        return kept[program]

    return small


def figures(lines: list[dict], ending: str) -> list[dict]:
    """The records whose case ends so; at least one."""
    found = [r for r in lines if r["case"].endswith(ending)]
    assert found, f"no case ends in {ending!r}: {[r['case'] for r in lines]}"
    return found


def is_well_formed(program: str, lines: list[dict]) -> None:
    assert lines
    for r in lines:
        assert list(r) == FIELDS
        assert r["benchmark"] == program
        assert isinstance(r["unit"], str)
        assert r["unit"]
        assert math.isfinite(r["ours"])
        assert r["ours"] >= 0
        if r["reference"] == 0:
            assert r["ratio"] is None
        else:
            assert r["ratio"] == r["ours"] / r["reference"]
    cases = [r["case"] for r in lines]  # what two versions' figures are joined by
    assert len(set(cases)) == len(cases)


def test_every_program_is_tested():
    assert list(SMALL) == PROGRAMS


LONG = {
    "budget", "compile", "curvature", "gains", "hardware", "optimizers", "polar",
    "replicate", "sharded",
}  # fmt: skip


@pytest.mark.parametrize(
    "program",
    [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG)) for p in PROGRAMS],
)
def test_records(program, small):
    is_well_formed(program, small(program))


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_quick(program, tmp_path):
    is_well_formed(program, records(program, ["--quick"], tmp_path))


@pytest.mark.slow
def test_compile_counts_what_is_there(small):
    # Two stacks of three products in two loops; twelve leaves of three products, which
    # newer releases of jax write out for each of the five steps.
    lines = small("compile")
    case = "muon, 2x6 of 16 against "
    count = lambda name, what: figures(lines, f"{case}{name}: {what}")[0]["reference"]
    assert count("muon, classic", "StableHLO dots") == 6
    assert count("muon, classic", "StableHLO loops") == 4
    assert count("optax.contrib.muon", "StableHLO dots") in (36, 5 * 36)
    assert count("optax.contrib.muon", "StableHLO loops") == 0
    assert count("optax.contrib.muon, dion", "StableHLO loops") == 12
    (text,) = figures(lines, f"{case}optax.contrib.muon: HLO text")
    assert text["ratio"] < 1


@pytest.mark.slow
def test_compile_adds_up_clocks(small):
    lines = small("compile")
    case = "muon, 1x4 of 8 against optax.contrib.muon"
    for clock in ("wall", "CPU"):
        (lower,) = figures(lines, f"{case}: lower, {clock}")
        (build,) = figures(lines, f"{case}: compile, {clock}")
        (both,) = figures(lines, f"{case}: sum, {clock}")
        assert both["ours"] == pytest.approx(lower["ours"] + build["ours"])
        assert both["ours"] > 0


def test_step_weighs_the_state(small):
    # A layer of width w has 12 w^2 entries; muon keeps one float32 of each, AdamW two.
    tree = 2 * 12 * 16**2 * 4 / 1e6
    references = {"muon, classic": 1, "optax.contrib.muon": 1, "optax.adamw": 2}
    for name, copies in references.items():
        (r,) = figures(small("step"), f" against {name}: state")
        assert r["ours"] == pytest.approx(tree, rel=0.01)
        assert r["reference"] == pytest.approx(copies * tree, rel=0.01)


def test_step_counts_products(small):
    # Of m x m, m x 3m and two of m x 4m: five times m^3 (2 r + 1) multiply-adds.
    plain = 2 * 5 * 2 * 16**3 * (3 + 7 + 9 + 9) / 1e9
    for name in ("muon, classic", "optax.contrib.muon"):
        (r,) = figures(small("step"), f" against {name}: products")
        assert r["reference"] == pytest.approx(plain, rel=1e-9)


def test_step_measures_the_update(small):
    # The classic stages are the same polynomial in both.
    lines = small("step")
    (classic,) = figures(lines, " against muon, classic: error")
    (theirs,) = figures(lines, " against optax.contrib.muon: error")
    assert theirs["reference"] == pytest.approx(classic["reference"], rel=1e-4)
    assert 0.2 < theirs["ours"] < theirs["reference"] < 0.6
    (r,) = figures(lines, " against optax.contrib.muon: cosine")
    assert 0.8 < r["reference"] < 1


@pytest.mark.slow
def test_step_in_16_bits(tmp_path):
    words = [*SMALL["step"], "optax.contrib.muon, spectral", "--dtype", "bfloat16"]
    lines = records("step", words, tmp_path)
    is_well_formed("step", lines)
    state, *_ = figures(lines, ": state")
    assert state["ours"] == pytest.approx(12 * 2 * 16**2 * 2 / 1e6, rel=0.02)
    assert not [r for r in lines if "spectral" in r["case"]]  # needs 32 bits


@pytest.mark.slow
def test_gains_says_what_two_matrices_take(small):
    lines = small("gains")
    takes = [r for r in lines if "by_gain takes" in r["case"]]
    assert sum(r["ours"] for r in takes) == 2
    (least,) = figures(lines, "least gain")
    assert 1 <= least["ours"] < 64 ** (3 / 8)  # of a flat spectrum
    for one in figures(lines, "auto, operations"):  # (5, 17, 17), halved twice
        assert one["ours"] == pytest.approx(9.25 / 15)
    by_gain, *_ = figures(lines, "by_gain, operations by half")
    assert 0.4 <= by_gain["ours"] <= 8 / 15 + 1e-9


@pytest.mark.slow
def test_sharded_counts_what_travels(small):
    lines = small("sharded")
    whole, half, _ = (
        r
        for r in figures(lines, "FSDP-8, 1x4 of 16: result bytes")
        if "whole_matrices" in r["case"]
    )
    assert 0 < 2 * half["ours"] == whole["ours"] < whole["reference"]
    (lone,) = figures(lines, "muon, whole_matrices, one, 1 of 512x1024: result bytes")
    assert lone["ours"] == 512 * 1024 * 4 / 1e6  # gathered once
    assert lone["reference"] > lone["ours"]
    single = "muon, whole_matrices, one, 1 of 512x1024: work over a single device's"
    (work,) = figures(lines, single)
    assert work["ours"] == 1


@pytest.mark.parametrize(
    ("program", "option", "unknown", "known"),
    [
        ("sharded", "--cases", "FSDP-9", "FSDP-8"),
        pytest.param("polar", "--kernels", "autos", "by_gain", marks=pytest.mark.slow),
    ],
)
def test_unknown_names_are_refused(program, option, unknown, known, tmp_path):
    done = run(program, option, unknown, cwd=tmp_path)
    assert done.returncode != 0
    assert repr(unknown) in done.stderr
    assert known in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_polar_measures_the_error(small):
    # Singular values from 1 to 1e-3 over their norm, by the classic polynomial.
    s = np.geomspace(1, 1e-3, 8)
    s /= np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = {
        "error": np.sqrt(np.mean((s - 1) ** 2)),
        "cosine": np.mean(s) / np.sqrt(np.mean(s**2)),
        "smallest singular value": s.min(),
        "mean singular value": s.mean(),
        "largest singular value": s.max(),
    }
    lines = small("polar")
    for name in ("classic", "optax", "five stages, plainly"):
        case = f"auto against {name}, 8x16 float32: geometric: "
        for what, value in expected.items():
            (r,) = figures(lines, case + what)
            assert r["reference"] == pytest.approx(value, rel=1e-4)
        (r,) = figures(lines, case + "error")
        assert 0.02 < r["ours"] < r["reference"]


@pytest.mark.slow
def test_polar_knows_the_exact_factor(small):
    lines = small("polar")
    for shape in ("8x16", "16x16"):
        for spectrum, close in (("geometric", 5e-5), ("rank-one", 2e-6)):
            case = f"auto against svd, {shape} float32: {spectrum}: "
            (r,) = figures(lines, case + "error")
            assert 0 < r["reference"] < close
            (r,) = figures(lines, case + "smallest singular value")
            assert r["reference"] == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_polar_counts_products(small):
    lines = small("polar")
    for m, n in ((8, 16), (16, 16)):
        plain = 5 * (2 * m * m * n + 2 * m**3 + 2 * m * m * n) / 1e9
        for name in ("classic", "optax", "five stages, plainly"):
            case = f"auto against {name}, {m}x{n} float32: products"
            (r,) = figures(lines, case)
            assert r["reference"] == pytest.approx(plain, rel=1e-9)


@pytest.mark.slow
def test_polar_leaves_a_picture_and_its_text(tmp_path):
    words = "--shapes 8 16 --spectra rank-one --kernels --picture p.png --text p.txt"
    records("polar", words.split(), tmp_path)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "p.txt").read_text()
    for expected in ("jax ", "optax ", "polar.py --shapes 8 16", "8x16", "rank-one"):
        assert expected in text


@pytest.mark.slow
def test_hardware_measures_what_auto_weighs(small):
    cases = {r["case"]: r for r in small("hardware")}
    kinds = {case.split(",")[0] for case in cases}
    assert kinds == {
        "eigendecomposition over product",
        "eigh over auto",
        "map_stacks over one batch",
        "map_stacks over calls written out",
    }
    name = "eigendecomposition over product, 8: {}"
    slowest, median = (cases[name.format(w)] for w in ("slowest wall", "wall"))
    assert slowest["ours"] >= median["ours"] > 0


@pytest.mark.slow
def test_polar_refuses_tall_shapes(tmp_path):
    done = run("polar", "--shapes", "16", "8", cwd=tmp_path)
    assert done.returncode != 0
    assert "16x8" in done.stderr
    assert "Traceback" not in done.stderr


def run_after(
    preparation: str, program: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """What the program says in a process that has been prepared so."""
    path = str(FOLDER / program) + ".py"
    code = (
        f"{preparation}; import runpy, sys; sys.path.insert(0, {str(FOLDER)!r}); "
        f"runpy.run_path({path!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "program",
    [PROGRAMS[0], *(pytest.param(p, marks=pytest.mark.slow) for p in PROGRAMS[1:])],
)
def test_without_the_extra_says_what_to_install(program, tmp_path):
    done = run_after("import sys; sys.modules['tyro'] = None", program, tmp_path)
    assert done.returncode == 1
    assert "tyro is missing" in done.stderr
    assert "orthoptax[bench]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_older_optax_is_said_not_met_in_a_call(tmp_path):
    older = "import optax; optax.contrib.muon = lambda learning_rate: None"
    done = run_after(older, "step", tmp_path)
    assert done.returncode == 1
    assert "0.2.8" in done.stderr
    assert "pip install -U optax" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_in_a_missing_folder_is_said_before_the_work(tmp_path):
    done = run("polar", *SMALL["polar"], "--json", "no/such/out.jsonl", cwd=tmp_path)
    assert done.returncode != 0
    assert "no/such" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
