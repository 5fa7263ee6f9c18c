# SPDX-License-Identifier: Apache-2.0
"""`python -m orthoptax compare` in processes of its own: errors, kills, the job."""

import json
import signal
import time

import numpy as np
import pytest

from orthoptax.train import results

FILES = {
    "curves.jsonl",
    "curves.png",
    "gradients.png",
    "learning_rates.png",
    "manifest.json",
    "table.txt",
}


def small(text, out, *more):
    """Three evaluations a run, on the small folder."""
    options = ("--data", text, "--out", out, "--evaluate-every", 4, "--steps", 10)
    return ("compare", *options, *more)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("--optimizers", "adamw", "muno"),
            "optimizer 'muno' is unknown. Expected one",
        ),
        (("--optimizers", "muno"), "Did you mean 'muon'?"),
        (
            ("--model", "tinny"),
            "model 'tinny' is unknown. Expected one of 124m, tiny, wide.",
        ),
        (("--data", "EMPTY"), "holds no text. Expected at least one file"),
        (("--data", "EMPTY/nowhere"), "does not exist. Expected a folder"),
        (("--learning-rates", "0.1", "-1"), "learning rate -1.0 is out of range."),
        (("--learning-rates", "nan"), "learning rate nan is out of range."),
        (("--learning-rates", "inf"), "learning rate inf is out of range."),
        (("--learning-rates", "0.1", "0.1"), "--learning-rates has a value twice."),
        (("--steps", "0"), "--steps is 0. Expected a number of steps, at least 1."),
        (("--gradients", "0"), "--gradients is 0. Expected a number of gradients, at"),
        (("--seeds",), "--seeds has no value."),
        (("--learning-rates", "fast"), "--learning-rates"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    words, expected, tmp_path, capsys, monkeypatch
):
    from orthoptax.train.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    try:
        status = main(["compare", *words])
    except SystemExit as error:  # raised by the parser of the command line
        status = error.code
    output = capsys.readouterr()
    assert status == 2
    assert expected in output.err + output.out
    assert not (tmp_path / "results").exists()


def test_mistakes_reach_the_shell_without_a_traceback(run, tmp_path):
    status, output = run("compare", "--optimizers", "adamm", "--out", tmp_path / "out")
    assert status == 2
    assert "Did you mean 'adamw'" in output
    assert "Traceback" not in output


def test_a_folder_that_cannot_be_made_is_one_message(capsys, text):
    from orthoptax.train.main import main

    status = main(["compare", "--data", str(text), "--out", "/dev/null/out"])
    assert status == 2
    assert "/dev/null/out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(run, text, tmp_path_factory):
    """An uninterrupted comparison, with a rate at which everything diverges."""
    out = tmp_path_factory.mktemp("whole") / "out"
    rates = ("--learning-rates", 0.01, 1e30)
    words = small(text, out, *rates, "--optimizers", "adamw", "muon")
    status, output = run(*words)
    assert status == 0, output
    return out, output, words


def test_the_folder_holds_the_results_and_nothing_else(whole, contents, text):
    out, output, _ = whole
    assert set(contents(out)) == FILES
    assert {p.name for p in out.iterdir()} == {*FILES, "timing.jsonl"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["data"]["sha256"] in output
    assert manifest["model"]["parameters"] == 139_584
    assert {"jax", "optax", "flax", "python"} < set(manifest["versions"])
    assert str(text) not in (out / "manifest.json").read_text()


def test_the_printed_table_has_what_was_asked_for(whole):
    _, output, _ = whole
    clock = ("seconds", "ms/step", "compile s")
    for column in (*clock, "grads/step", "state bytes", "zlib -9"):
        assert column in output
    # Adam keeps two copies of each of 139,584 parameters and a counter, 4 bytes each.
    assert f"{4 * (2 * 139_584 + 1):,}" in output


def test_all_optimizers_begin_at_the_same_loss(whole):
    rows = results.read(whole[0] / "curves.jsonl")
    losses = [row["validation_loss"] for row in rows if row["step"] == 0]
    assert len(losses) == 4
    np.testing.assert_allclose(losses, losses[0], rtol=4e-7)  # roundings of float32


def test_a_diverged_run_is_reported_and_the_others_go_on(whole):
    out, output, _ = whole
    rows = results.read(out / "curves.jsonl")
    for name in ("adamw", "muon"):
        ended = results.of(results.Run(name, 1e30, 0), rows)[-1]
        assert 1 < ended["diverged_at"] <= 4  # the first step still has a finite loss
        assert results.of(results.Run(name, 0.01, 0), rows)[-1]["step"] == 10
        assert f"{name} rate 1e+30 seed 0: diverged at step" in output
    assert f"diverged {ended['diverged_at']}" in (out / "table.txt").read_text()
    assert "Traceback" not in output
    assert "NaN" not in (out / "curves.jsonl").read_text()


@pytest.mark.slow
def test_resuming_what_is_complete_shows_the_table_again(whole, run, contents):
    out, before, words = whole
    files = contents(out)
    status, output = run(*words, "--resume")
    assert status == 0
    assert contents(out) == files
    table = before[before.index(" optimizer") : before.index("target:")]
    assert table in output  # times and all: nothing was trained or compiled


@pytest.mark.slow  # test_costs.py has the parts
def test_a_budget_of_gradients(run, text, tmp_path):
    out = tmp_path / "out"
    words = small(text, out, "--gradients", 8, "--learning-rates", 0.01)
    status, output = run(*words, "--optimizers", "adamw", "muon")
    assert status == 0, output
    manifest = json.loads((out / "manifest.json").read_text())
    cost = manifest["cost"]["muon"]["gradients_per_step"]
    assert cost > 1  # Newton-Schulz
    rows = results.read(out / "curves.jsonl")
    ends = {row["optimizer"]: row["step"] for row in rows}
    assert ends == manifest["steps"] == {"adamw": 8, "muon": int(8 / cost)}


@pytest.mark.slow
def test_a_used_folder_is_refused_and_a_changed_resume_too(whole, run):
    _, _, words = whole
    status, output = run(*words)
    assert status == 2
    assert "is not empty" in output
    assert "--resume" in output
    status, output = run(*words, "--resume", "--steps", 11)
    assert status == 2
    assert "steps was 10, is 11" in output


def kill_when(start, words, ready, number=signal.SIGKILL):
    """Runs until `ready()`, sends the signal; returns the status and the output."""
    with start(*words) as process:
        while process.poll() is None and not ready():
            time.sleep(0.005)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    return process.returncode, output + errors


@pytest.mark.slow  # a minute; tests/conformance resumes every kind of state
def test_killed_and_resumed_equals_uninterrupted(start, run, text, tmp_path, contents):
    def words(name):
        more = ("--steps", 24, "--evaluate-every", 4, "--optimizers", "muon")
        return small(text, tmp_path / name, *more, "--learning-rates", 0.01, 0.02)

    assert run(*words("whole"))[0] == 0
    cut = tmp_path / "cut"

    def mid_run():
        rows = results.of(results.Run("muon", 0.02, 0), results.read(path))
        return len(rows) >= 3 and any((cut / "checkpoint").glob("muon-0.02-0/[0-9]*"))

    path = cut / "curves.jsonl"
    status, _ = kill_when(start, words("cut"), mid_run)
    assert status == -signal.SIGKILL
    assert not (cut / "table.txt").exists()
    before = (cut / "timing.jsonl").read_text().splitlines()
    status, output = run(*words("cut"), "--resume")
    assert status == 0, output
    assert contents(cut) == contents(tmp_path / "whole")
    # At most one interval was trained twice: older lines keep their measured time.
    after = (cut / "timing.jsonl").read_text().splitlines()
    assert after[: len(before) - 1] == before[:-1]


@pytest.mark.slow
def test_ctrl_c_says_how_to_resume(start, text, tmp_path):
    out = tmp_path / "out"
    words = small(text, out, "--optimizers", "adamw", "--steps", 4000)
    status, output = kill_when(
        start, words, (out / "curves.jsonl").exists, signal.SIGINT
    )
    assert status == 130
    assert "--steps 4000 --resume" in output
    assert "Traceback" not in output


@pytest.mark.slow  # 2 minutes
def test_killed_again_and_again(start, run, text, tmp_path, contents):
    def words(name):
        more = ("--steps", 60, "--evaluate-every", 2, "--learning-rates", 0.01, 0.02)
        return small(text, tmp_path / name, *more, "--optimizers", "adamw")

    assert run(*words("whole"))[0] == 0
    cut, goal = tmp_path / "cut", 0
    for extra in range(8):  # after a few more lines each time, at another moment of it

        def more_lines(goal=goal, extra=extra):
            done = len(results.read(cut / "curves.jsonl")) >= goal
            if done:
                time.sleep(0.011 * extra)
            return done

        status, output = kill_when(start, (*words("cut"), "--resume"), more_lines)
        assert status == -signal.SIGKILL, output
        goal = len(results.read(cut / "curves.jsonl")) + 4
    status, output = run(*words("cut"), "--resume")
    assert status == 0, output
    assert contents(cut) == contents(tmp_path / "whole")


@pytest.mark.slow  # 4 minutes
def test_the_default_job(run, tmp_path):
    status, output = run("compare", "--out", tmp_path / "out")
    assert status == 0, output
    rows = results.read(tmp_path / "out/curves.jsonl")
    best = {}
    for row in rows:
        if row["step"] == 250:
            loss, rate = row["validation_loss"], row["learning_rate"]
            best[row["optimizer"]] = min(
                best.get(row["optimizer"], (9.0, 0.0)), (loss, rate)
            )
    assert set(best) == {"adamw", "optax-muon", "optax-muon-default", "muon"}
    assert best["muon"][0] < best["adamw"][0] - 0.1
    assert best["optax-muon"][0] < best["adamw"][0] - 0.1
    assert all(0.005 < rate < 0.04 for _, rate in best.values())  # inside the grid
