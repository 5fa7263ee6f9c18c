# SPDX-License-Identifier: Apache-2.0
"""The results folder: whole files, refusals, and checkpoints that survive a kill."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from orthoptax.train import checkpoint, loop, results
from orthoptax.train.config import UsageError

RUN = results.Run("adamw", 0.01, 0)
OTHER = results.Run("adamw", 0.02, 0)


def state(step):
    params = {"a": {"kernel": jnp.full((2, 3), float(step))}, "b": jnp.ones(3)}
    tx = optax.contrib.muon(0.1)  # its state holds masked and empty nodes
    return loop.State(params, tx.init(params), jnp.int32(step))


def like():
    return jax.eval_shape(lambda: state(0))


def fill(folder, run, *steps):
    for step in steps:
        results.record(folder, results.row(run, step, 1.0, 2.0, None), 0.5)


def test_write_replaces_whole_files_and_survives_a_leftover(tmp_path):
    path = tmp_path / "file"
    (tmp_path / ".file.tmp").write_text("cut sho")
    results.write(path, "first")
    results.write(path, b"second")
    assert path.read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "curves.jsonl"
    fill(tmp_path, RUN, 0, 5)
    before = path.read_bytes()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        results.write(path, "half")
    assert path.read_bytes() == before


def test_losses_that_are_not_finite_are_null():
    row = results.row(RUN, 5, float("nan"), float("inf"), 3)
    assert row["train_loss"] is None
    assert row["validation_loss"] is None
    assert json.loads(json.dumps(row, allow_nan=False))["diverged_at"] == 3


def test_a_run_is_complete_at_its_last_step_or_when_diverged():
    rows = [results.row(RUN, 5, 1.0, 1.0, None), results.row(OTHER, 2, 1.0, 1.0, 2)]
    assert results.is_complete(RUN, rows, 5)
    assert not results.is_complete(RUN, rows, 6)
    assert results.is_complete(OTHER, rows, 6)


def test_compilation_is_recorded_once(tmp_path):
    results.record_compilation(tmp_path, "adamw", 1.5)
    results.record_compilation(tmp_path, "muon", 2.5)
    results.record_compilation(tmp_path, "adamw", 9.0)
    rows = results.read(tmp_path / "timing.jsonl")
    assert [row["compile"] for row in rows] == [1.5, 2.5]


def test_a_folder_in_use_is_refused_unless_resuming(tmp_path):
    results.begin(tmp_path / "new", {"steps": 1}, resume=False)
    with pytest.raises(UsageError, match=r"is not empty\. Expected .* Add --resume"):
        results.begin(tmp_path / "new", {"steps": 1}, resume=False)
    results.begin(tmp_path / "new", {"steps": 1}, resume=True)


def test_a_folder_whose_first_write_was_killed_counts_as_new(tmp_path):
    (tmp_path / ".manifest.json.tmp").write_text('{"ste')
    results.begin(tmp_path, {"steps": 1}, resume=False)
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"steps": 1}


def test_resume_with_another_configuration_says_what_differs(tmp_path):
    old = {"steps": 1, "data": {"sha256": "aa", "files": 2}}
    results.begin(tmp_path, old, resume=False)
    new = {"steps": 3, "data": {"sha256": "bb", "files": 2}}
    with pytest.raises(UsageError) as error:
        results.begin(tmp_path, new, resume=True)
    assert 'data.sha256 was "aa", is "bb"; steps was 1, is 3.' in str(error.value)
    assert "files" not in str(error.value)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        results.begin(tmp_path, {}, resume=True)
    with pytest.raises(UsageError, match="is a file"):
        results.begin(tmp_path / "thesis.txt", {}, resume=False)


def test_restore_gives_the_last_state_bitwise_and_drops_later_lines(tmp_path):
    fill(tmp_path, OTHER, 0, 5, 10, 15)
    fill(tmp_path, RUN, 0, 5)
    checkpoint.save(tmp_path, RUN, state(5))
    fill(tmp_path, RUN, 10)
    checkpoint.save(tmp_path, RUN, state(10))
    fill(tmp_path, RUN, 15)
    restored = checkpoint.restore(tmp_path, RUN, like())
    assert restored is not None
    assert jax.tree.structure(restored) == jax.tree.structure(state(10))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, restored, state(10))))
    for name in ("curves.jsonl", "timing.jsonl"):
        rows = results.read(tmp_path / name)
        assert [row["step"] for row in results.of(RUN, rows)] == [0, 5, 10]
        assert [row["step"] for row in results.of(OTHER, rows)] == [0, 5, 10, 15]


def test_a_run_without_a_checkpoint_starts_over(tmp_path):
    fill(tmp_path, OTHER, 0)
    fill(tmp_path, RUN, 0, 5)
    assert checkpoint.restore(tmp_path, RUN, like()) is None
    assert results.read(tmp_path / "curves.jsonl") == [
        results.row(OTHER, 0, 1.0, 2.0, None)
    ]


def test_one_checkpoint_is_kept_and_a_half_written_one_is_passed_over(tmp_path):
    checkpoint.save(tmp_path, RUN, state(5))
    home = next((tmp_path / "checkpoint").iterdir())
    (home / "10.orbax-checkpoint-tmp").mkdir()  # what a kill during a save leaves
    restored = checkpoint.restore(tmp_path, RUN, like())
    assert restored is not None
    assert int(restored.step) == 5
    checkpoint.save(tmp_path, RUN, state(10))
    assert [p.name for p in home.iterdir()] == ["10"]


def test_finish_leaves_results_only(tmp_path):
    fill(tmp_path, RUN, 0)
    checkpoint.save(tmp_path, RUN, state(5))
    (tmp_path / ".table.txt.tmp").touch()
    results.finish(tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["curves.jsonl", "timing.jsonl"]
