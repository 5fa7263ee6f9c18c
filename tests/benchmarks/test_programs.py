# SPDX-License-Identifier: Apache-2.0
"""The programs of benchmarks/, each in a process of its own, on the smallest trees."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PROGRAMS = sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
SMALL = {
    program: words.split()
    for program, words in {
        "budget": "--tasks digits --optimizers adamw aegd --gradients 12 --seeds 1",
        "compile": "--layers 2 --width 16 --repeats 1",
        "curvature": "--layers 1 --width 8 --length 8 --batch 1 --steps 1 --repeats 1",
        "kernels": "--stacks 2 256",
        "optimizers": "--layers 1 --width 8 --repeats 1 --names muon dion",
        "polar": "--shapes 8 16 16 16 --repeats 2",
        "replicate": "--claims adago-digits --steps 2 --seeds 2 --rates 1",
        "sharded": "--layers 1 --width 16 --cases FSDP-8 one",
        "step": "--layers 2 --width 16 --repeats 2",
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
    assert "ratio" in done.stdout  # the table's heading
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


LONG = {"budget", "curvature", "replicate", "sharded"}  # twenty seconds and more


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


def test_compile_counts_what_is_there(small):
    lines = small("compile")
    # Two stacks of three products in two loops; twelve leaves of three products, which
    # newer releases of jax write out for each of the five steps.
    (dots,) = figures(lines, "StableHLO dots")
    assert dots["ours"] == 6
    assert dots["reference"] in (36, 5 * 36)
    (loops,) = figures(lines, "StableHLO loops")
    assert (loops["ours"], loops["reference"]) == (4, 0)
    (text,) = figures(lines, ": HLO text")
    assert text["ratio"] < 1
    for clock in ("wall", "CPU"):
        (lower,) = figures(lines, f": lower, {clock}")
        (build,) = figures(lines, f": compile, {clock}")
        (both,) = figures(lines, f": sum, {clock}")
        assert both["ours"] == pytest.approx(lower["ours"] + build["ours"])
        assert both["ours"] > 0


def test_step_weighs_the_state(small):
    # A layer of width w has 12 w^2 entries; muon keeps one float32 of each, AdamW two.
    tree = 2 * 12 * 16**2 * 4 / 1e6
    against_muon, against_adamw = figures(small("step"), ": state")
    assert "optax.contrib.muon" in against_muon["case"]
    assert "optax.adamw" in against_adamw["case"]
    for r in (against_muon, against_adamw):
        assert r["ours"] == pytest.approx(tree, rel=0.01)
    assert against_muon["reference"] == pytest.approx(tree, rel=0.01)
    assert against_adamw["reference"] == pytest.approx(2 * tree, rel=0.01)


def test_step_in_16_bits(tmp_path):
    words = [*SMALL["step"], "--dtype", "bfloat16"]
    lines = records("step", words, tmp_path)
    is_well_formed("step", lines)
    state, _ = figures(lines, ": state")
    assert state["ours"] == pytest.approx(12 * 2 * 16**2 * 2 / 1e6, rel=0.02)


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


def test_sharded_refuses_unknown_cases(tmp_path):
    done = run("sharded", "--cases", "FSDP-9", cwd=tmp_path)
    assert done.returncode != 0
    assert "'FSDP-9'" in done.stderr
    assert "FSDP-8" in done.stderr
    assert "Traceback" not in done.stderr


def test_polar_measures_the_error(small):
    lines = figures(small("polar"), ": error")
    error = {r["case"]: r for r in lines}
    assert len(lines) == 2 * 7  # shapes times kernels
    for r in error.values():
        # Both are the polar factor to rounding, or the same polynomial: same distance;
        # or one that may stand for the classic five, and is nearer.
        exact = r["case"].startswith(("svd", "POLAR_EXPRESS_8"))
        instead = r["case"].startswith(("auto", "by_gain"))
        low, high = (0, 2e-5) if exact else (1e-3, 0.5)
        assert low < r["ours"] < high
        assert low < r["reference"] < high
        assert exact or instead or r["ratio"] == pytest.approx(1, rel=1e-3)
        assert not instead or r["ratio"] < 1


def test_polar_refuses_tall_shapes(tmp_path):
    done = run("polar", "--shapes", "16", "8", cwd=tmp_path)
    assert done.returncode != 0
    assert "16x8" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_the_extra_says_what_to_install(program, tmp_path):
    code = (
        "import runpy, sys; sys.modules['tyro'] = None; "
        f"sys.path.insert(0, {str(FOLDER)!r}); "
        f"runpy.run_path({str(FOLDER / program) + '.py'!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "tyro is missing" in done.stderr
    assert "orthoptax[bench]" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_in_a_missing_folder_is_said_before_the_work(tmp_path):
    done = run("polar", *SMALL["polar"], "--json", "no/such/out.jsonl", cwd=tmp_path)
    assert done.returncode != 0
    assert "no/such" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
