# SPDX-License-Identifier: Apache-2.0
"""Tables and plots, from rows written by hand."""

import math

import pytest

from orthoptax.train import plots, report, results

MANIFEST = {
    "optimizers": ["adamw", "muon"],
    "learning_rates": [0.1, 0.2, 0.3],
    "seeds": [0, 1],
    "steps": 4,
    "evaluate_every": 2,
    "model": {"name": "tiny", "parameters": 10, "batch": 2, "length": 3},
    "data": {
        "source": "folder",
        "files": 2,
        "train_bytes": 5,
        "validation_bytes": 6,
        "sha256": "abc",
        "zlib_bits_per_byte": 1.5,
    },
    "optimizer_state_bytes": {"adamw": 1000, "muon": 500},
    "cost": {
        "adamw": {"gradients_per_step": 1.0, "at_least": False},
        "muon": {"gradients_per_step": 1.25, "at_least": True},
    },
}
FINALS = {  # (optimizer, rate): validation losses at steps 0, 2, 4 of the first seed
    ("adamw", 0.1): (5.0, 4.0, 3.0),
    ("adamw", 0.2): (5.0, 3.0, 2.0),
    ("adamw", 0.3): (5.0, 4.0, 2.5),
    ("muon", 0.1): (5.0, 2.0, 1.0),
    ("muon", 0.2): (5.0, 2.2, 1.2),
    ("muon", 0.3): (5.0, math.nan),
}


def summarize(folder, finals=FINALS, **changes):
    for (name, rate), losses in finals.items():
        for seed in (0, 1):  # the second seed is 0.2 worse
            for i, loss in enumerate(losses):
                run = results.Run(name, rate, seed)
                diverged = None if math.isfinite(loss) else 2
                row = results.row(run, 2 * i, loss, loss + 0.2 * seed, diverged)
                results.record(folder, row, seconds=0.5 * i)
    results.record_compilation(folder, "muon", 7.5)
    return report.summarize(folder, MANIFEST | changes)


def lines(text, name):
    return [line.split() for line in text.splitlines() if line.startswith(f" {name}")]


def test_table_without_a_clock(tmp_path):
    text = report.text(summarize(tmp_path), timed=False)
    (adamw, adamw_rates), (muon, muon_rates) = lines(text, "adamw"), lines(text, "muon")
    bits = f"{2.1 / math.log(2):.3f}"
    assert adamw == ["adamw", "0.2", "2.1000", bits, "4", "1.00", "1,000"]
    assert muon[:3] == ["muon", "<0.1", "1.1000"]  # its best rate ends the grid
    assert muon[4:] == ["2", ">1.25", "500"]  # 2.0 and 2.2, mean 2.1: reached at step 2
    assert adamw_rates == ["adamw", "3.1000", "2.1000", "2.6000"]
    assert muon_rates == ["muon", "1.1000", "1.3000", "diverged", "2"]
    assert "1.500 bits/byte" in text
    assert "sha256 abc" in text
    assert "best rate at an end" in text
    assert "diverged: the loss" in text
    assert "ms/step" not in text
    assert ">: a loop whose length depends on the data" in text
    assert "one every 2 steps;" in text


def test_a_budget_is_told(tmp_path):
    summary = summarize(tmp_path, gradients=6, steps={"adamw": 6, "muon": 4})
    text = report.text(summary, timed=False)
    assert "bytes a step, 6 gradients" in text
    assert "one every 2 gradients;" in text


def test_what_was_spent_is_along_a_curve(tmp_path):
    curves = summarize(tmp_path).curves
    spent = {c.optimizer: c.gradients for c in curves if c.learning_rate == 0.1}
    assert spent == {"adamw": [0, 2, 4], "muon": [0, 2.5, 5]}


def test_table_with_a_clock(tmp_path):
    text = report.text(summarize(tmp_path), timed=True)
    # 0.5 s to step 2, another 1.0 s to step 4: 250 and 500 milliseconds
    assert lines(text, "adamw")[0][4:] == ["4", "1.5", "375.0", "-", "1.00", "1,000"]
    assert lines(text, "muon")[0][4:8] == ["2", "0.5", "375.0", "7.5"]


def test_target_is_that_of_the_first_row_without_adamw(tmp_path):
    summary = summarize(tmp_path, optimizers=["muon"])
    assert summary.target_of == "muon"
    assert summary.target == pytest.approx(1.1)


def test_everything_diverged(tmp_path):
    finals = dict.fromkeys(FINALS, (5.0, math.nan))
    summary = summarize(tmp_path, finals)
    text = report.text(summary, timed=True)
    assert lines(text, "adamw")[0][1:5] == ["-", "diverged", "diverged", "-"]
    assert "none, it diverged" in text
    for plot in (plots.curves, plots.gradients, plots.learning_rates):
        assert plot(summary).startswith(b"\x89PNG")


def test_a_target_out_of_reach(tmp_path):
    finals = FINALS | {("muon", r): (5.0, 4.0, 3.5) for r in (0.1, 0.2, 0.3)}
    text = report.text(summarize(tmp_path, finals), timed=False)
    assert lines(text, "muon")[0][4:6] == ["not", "reached"]


def test_plots_depend_on_the_numbers_alone(tmp_path):
    summary = summarize(tmp_path)
    shifted = {key: tuple(x + 0.3 for x in losses) for key, losses in FINALS.items()}
    (tmp_path / "other").mkdir()
    other = summarize(tmp_path / "other", shifted)
    for plot in (plots.curves, plots.gradients, plots.learning_rates):
        assert plot(summary) == plot(summary)
        assert plot(summary) != plot(other)
        assert b"Software" not in plot(summary)
    assert plots.gradients(summary) != plots.curves(summary)
