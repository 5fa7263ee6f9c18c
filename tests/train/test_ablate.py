# SPDX-License-Identifier: Apache-2.0
"""`python -m orthoptax ablate`: errors, the job, a kill, and what the numbers say."""

import contextlib
import io
import json
import math
import sys

import numpy as np
import pytest

from orthoptax.train import digits, effects, plots, results
from orthoptax.train.main import main
from orthoptax.train.variants import Variant

BASE = "momentum | sign | scale_by_learning_rate"
SEEDS = (0, 1, 2)
REPLACE = ("--replace", "sign -> rms_align")


def small(out, *more):
    """The words of a short ablation: two rates, three seeds, ten steps."""
    options = ("--tasks", "digits", "--learning-rates", 0.01, 0.03, "--seeds", *SEEDS)
    size = ("--steps", 10, "--evaluate-every", 10)  # no checkpoint, which takes long
    words = ("ablate", "--base", BASE, *options, *size, "--out", out, *more)
    return list(map(str, words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--base", "momentum | sgn"), "'sgn' is unknown. Expected one of"),
        (("--base", "momentum | sgn"), "\n             ^^^\n"),
        (("--base", "momentum"), "has one link and nothing to replace it with."),
        (("--replace", "sign"), "is not of the form 'link -> chain'. Expected"),
        (
            ("--tasks", "digit"),
            "task 'digit' is unknown. Expected one of bytes",
        ),
        (("--tasks",), "--tasks has no value. Expected at least one"),
        (("--seeds", "0", "1"), "--seeds has 2 values. Expected at least 3, as"),
        (("--learning-rates",), "--learning-rates has no value."),
        (("--steps", "0"), "--steps is 0. Expected a number of steps, at least 1."),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    words, expected, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    status = main(["ablate", "--base", BASE, *words])
    assert status == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_chain_that_the_model_does_not_suit_is_one_message(tmp_path, capsys):
    base = "momentum | error_feedback(0.5, low_rank(rank=500))"
    status = main(small(tmp_path / "out", "--base", base))
    error = capsys.readouterr().err
    assert status == 2
    assert "fails on this model" in error
    assert "500" in error
    assert not (tmp_path / "out").exists()


def test_without_scikit_learn_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(small(tmp_path / "out")) == 2
    assert "pip install 'orthoptax[bench]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted ablation, and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(small(out, *REPLACE)) == 0
    return out, printed.getvalue()


def test_the_folder_holds_table_plot_and_lines(whole, contents):
    out, output = whole
    files = {"effects.jsonl", "effects.png", "manifest.json", "table.txt"}
    runs = {"digits/curves.jsonl", "digits/manifest.json"}
    assert set(contents(out)) == files | runs
    assert (out / "table.txt").read_text() in output
    lines = [json.loads(s) for s in (out / "effects.jsonl").read_text().splitlines()]
    assert [line["change"] for line in lines] == [
        "base",
        "without momentum",
        "without sign",
        "sign -> rms_align",
    ]  # dropping the rate puts it back, and so is no change
    rows = results.read(out / "digits" / "curves.jsonl")
    for line in lines:
        of = lambda rate, line=line: [
            results.of(results.Run(line["chain"], rate, s), rows)[-1]["validation_loss"]
            for s in SEEDS
        ]
        best = min((0.01, 0.03), key=lambda rate: np.mean(of(rate)))
        assert (line["learning_rate"], line["losses"]) == (best, of(best))
        difference = np.mean(line["losses"]) - np.mean(lines[0]["losses"])
        assert line["difference"] == pytest.approx(difference, abs=1e-9)


def test_all_chains_begin_at_the_same_loss(whole):
    rows = results.read(whole[0] / "digits" / "curves.jsonl")
    for seed in SEEDS:  # one function, compiled into a program of each chain
        first = [
            r["validation_loss"] for r in rows if (r["seed"], r["step"]) == (seed, 0)
        ]
        assert len(first) > 1
        np.testing.assert_allclose(first, first[0], rtol=4e-7)  # roundings of float32


def test_resuming_what_is_complete_shows_the_table_again(whole, contents, capsys):
    out, _ = whole
    files = contents(out)
    assert main([*small(out, *REPLACE), "--resume"]) == 0
    assert contents(out) == files
    assert (out / "table.txt").read_text() in capsys.readouterr().out


def test_a_used_folder_is_refused_and_a_changed_resume_too(whole, capsys):
    words = small(whole[0], *REPLACE)
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*words, "--resume", "--steps", "11"]) == 2
    assert "steps was 10, is 11" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(
    whole, contents, tmp_path, monkeypatch, capsys
):
    out, record, calls = tmp_path / "out", results.record, []

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == 16:
            raise KeyboardInterrupt
        record(*arguments, **named)

    monkeypatch.setattr(results, "record", interrupted)
    assert main(small(out, *REPLACE)) == 130
    assert "--resume" in capsys.readouterr().err
    assert not (out / "table.txt").exists()
    assert main([*small(out, *REPLACE), "--resume"]) == 0
    assert contents(out) == contents(whole[0])
    # Nothing was trained twice but the interval that was cut off: the first of its
    # run, whose start was recorded again.
    assert len(calls) == 2 + len(results.read(out / "digits" / "curves.jsonl"))


def test_the_interval_is_students_and_by_seed():
    base, other = [1.0, 2.0, 3.0], [1.5, 2.4, 3.6]
    mean, half = effects.paired(other, base)
    assert mean == pytest.approx(0.5)
    # s = 0.1; t(0.975, 2) = 4.3027 from a table
    assert half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        seed = rng.normal(0, 5, 3)  # common to both, and cancels
        mean, half = effects.paired(
            list(seed + 1 + rng.normal(0, 0.1, 3)), list(seed + rng.normal(0, 0.1, 3))
        )
        hits += abs(mean - 1) <= half
    assert 0.935 < hits / 2000 < 0.965


VARIANTS = [
    Variant("base", False, "a | b"),
    Variant("without a", True, "b"),
    Variant("without b", True, "a"),
    Variant("b -> c", False, "a | c"),
    Variant("b -> d", False, "a | d"),
    Variant("b -> e", False, "a | e"),
]
LOSSES = {  # by chain, at the two rates; the seeds add 0, 0.1 and 0.2
    "a | b": (1.0, 2.0),
    "b": (3.0, 1.5),
    "a": (0.5, 0.6),
    "a | c": (1.2, 9.0),
    "a | d": (1.0, 9.0),
    "a | e": (math.nan, math.nan),
}
MANIFEST = {"learning_rates": [0.1, 0.2], "seeds": [0, 1, 2], "unit": "nats/byte"}


@pytest.fixture
def found(tmp_path):
    rng = np.random.default_rng(0)
    for chain, losses in LOSSES.items():
        for at, loss in zip(MANIFEST["learning_rates"], losses, strict=True):
            for seed in MANIFEST["seeds"]:
                noisy = loss + 0.1 * seed + 0.01 * rng.normal()
                diverged = None if math.isfinite(loss) else 7
                row = results.row(results.Run(chain, at, seed), 9, 1.0, noisy, diverged)
                results.record(tmp_path, row, 0.5)
    return effects.effects(tmp_path, "bytes", MANIFEST, VARIANTS)


def test_verdicts(found):
    assert [(e.change, e.verdict) for e in found] == [
        ("base", ""),
        ("without a", "earns its keep"),
        ("without b", "better without"),
        ("b -> c", "base is better"),
        ("b -> d", "no difference shown"),
        ("b -> e", "diverged"),
    ]
    assert [e.learning_rate for e in found] == [0.1, 0.2, 0.1, 0.1, 0.1, None]
    assert found[1].difference == pytest.approx(0.5, abs=0.03)
    assert json.loads(json.dumps(found[-1]._asdict(), allow_nan=False))["losses"] == []


def test_verdicts_of_a_diverged_base(tmp_path):
    for chain, diverged in (("a | b", 3), ("b", None)):
        for seed in MANIFEST["seeds"]:
            for at in MANIFEST["learning_rates"]:
                row = results.row(results.Run(chain, at, seed), 9, 1.0, 1.0, diverged)
                results.record(tmp_path, row, 0.5)
    found = effects.effects(tmp_path, "bytes", MANIFEST, VARIANTS[:2])
    assert [e.verdict for e in found] == ["diverged", "base diverged"]
    assert effects.text(found, MANIFEST).count("diverged") == 2
    assert plots.effects([found])


def test_the_table(found):
    text = effects.text(found, MANIFEST)
    lines = [line for line in text.splitlines() if line.startswith(" without a")]
    words = lines[0].split()
    assert words[2] == "<0.2"
    assert float(words[3]) == pytest.approx(1.6, abs=0.02)
    assert "\u00b1" in lines[0]
    assert lines[0].endswith("earns its keep")
    assert "95% interval (Student's t, paired by seed" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_plot_depends_on_the_numbers_alone(found):
    moved = [e._replace(difference=(e.difference or 0) + 1) for e in found]
    assert plots.effects([found]) == plots.effects([found])
    assert plots.effects([found]) != plots.effects([moved])
    assert plots.effects([found, found]) != plots.effects([found])


def test_digits_are_split_without_overlap_and_complete():
    found = digits.read()
    assert found.train.shape == (1437, 65)
    assert found.validation.shape == (360, 65)
    assert {found.train.dtype, found.validation.dtype} == {np.dtype(np.uint8)}
    assert found.train[:, :-1].max() == 16
    assert set(found.validation[:, -1]) == set(range(10))
    task = digits.task(found)
    assert task.batch == (60, 65)
    assert task.validation.shape[0] * 60 == 360
    assert np.array_equal(task.draw(1, 2), task.draw(1, 2))
    assert not np.array_equal(task.draw(1, 2), task.draw(1, 3))
    loss = task.loss(task.initial(0), task.draw(0, 0))
    assert abs(float(loss) - math.log(10)) < 0.7  # near a uniform guess


@pytest.mark.slow  # 6 minutes
def test_the_default_job(run, tmp_path):
    status, output = run("ablate", "--out", tmp_path / "out")
    assert status == 0, output
    lines = (tmp_path / "out" / "effects.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert {line["task"] for line in found} == {"digits", "bytes"}
    assert all(line["losses"] for line in found)
    keeps = [x for x in found if x["verdict"] == "earns its keep"]
    assert any(x["change"] == "without orthogonalize" for x in keeps)
