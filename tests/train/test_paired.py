# SPDX-License-Identifier: Apache-2.0
"""Ours against optax's Muon on the main job: the same settings, the same loss."""

import numpy as np
import optax
import pytest

from orthoptax import muon
from orthoptax.matrix import newton_schulz
from orthoptax.train import data, loop, models, names, results, tasks

SEEDS, STEPS, RATE = (0, 1, 2, 3, 4), 250, 0.02
T_975 = 2.776  # Student's t, 4 degrees of freedom


def ours(learning_rate):
    """The one difference left is optax's bias correction inside Nesterov."""
    rest = optax.adamw(learning_rate, nesterov=True, weight_decay=0.0)
    return muon(learning_rate, polar=newton_schulz(), rest=rest)


def final_losses(constructor, folder):
    task = tasks.text(models.shape("tiny"), data.read(None))
    evaluate = loop.evaluator(task)
    trainer, _ = loop.trainer(task, constructor, STEPS, 125, evaluate)
    for seed in SEEDS:
        run = results.Run("it", RATE, seed)
        loop.train(run, trainer, folder, STEPS, 125, lambda progress: None)
    rows = results.read(folder / "curves.jsonl")
    return np.asarray([r["validation_loss"] for r in rows if r["step"] == STEPS])


@pytest.mark.slow  # 3 minutes
def test_five_paired_seeds(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "optax").mkdir()
    difference = final_losses(ours, tmp_path / "ours") - final_losses(
        names.optax_muon, tmp_path / "optax"
    )
    assert difference.shape == (5,)
    half = T_975 * difference.std(ddof=1) / np.sqrt(len(SEEDS))
    print(f"ours - optax: {difference.mean():+.4f} +- {half:.4f} nats/byte")
    assert abs(difference.mean()) <= max(half, 0.02)
