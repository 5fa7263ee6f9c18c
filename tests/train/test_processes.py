# SPDX-License-Identifier: Apache-2.0
"""Two processes of four devices train as one of eight does; one of them is lost."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from orthoptax.train import (
    checkpoint,
    config,
    data,
    loop,
    meshes,
    models,
    names,
    processes,
    results,
    tasks,
)

ROOT = Path(__file__).resolve().parents[2]
MESH, STEPS, INTERVAL = "fsdp=4,tp=2", 16, 2
# Muon with the kernel that rounds least: other meshes are other programs.
CHAIN = "momentum | orthogonalize(newton_schulz(QUINTIC)) | scale_by_shape"
(OPTIMIZER,) = names.constructors([CHAIN])
RUN = results.Run(OPTIMIZER, 0.02, 0)


def words(text, out):
    grid = ("--optimizers", CHAIN, "--learning-rates", "0.02", "--steps", STEPS)
    where = ("--data", text, "--out", out, "--mesh", MESH, "--resume")
    return [str(w) for w in ("compare", *grid, "--evaluate-every", INTERVAL, *where)]


def start(words, devices, out):
    """The command in a process of its own; what it prints goes to a file."""
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    with out.open("w") as log:
        command = [sys.executable, "-m", "orthoptax", *words]
        env = {**os.environ, **own}
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def two(text, out):
    """Both processes, and the files of what they print."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        at = f"localhost:{free.getsockname()[1]}"
    logs = [out.with_name(f"{out.name}-{n}.log") for n in range(2)]
    more = lambda n: ["--coordinator", at, "--processes", "2", "--process", str(n)]
    both = [start(words(text, out) + more(n), 4, log) for n, log in enumerate(logs)]
    return both, logs


def finish(started, logs):
    try:
        for process, log in zip(started, logs, strict=True):
            assert process.wait(timeout=300) == 0, log.read_text()
    finally:
        end(*started)


def end(*started):
    for process in started:
        process.kill()
        process.wait()


def curve(folder):
    rows = results.of(RUN, results.read(folder / "curves.jsonl"))
    assert [row["step"] for row in rows] == list(range(0, STEPS + 1, INTERVAL))
    return np.asarray([row["validation_loss"] for row in rows])


def saved(folder):
    """The step of the last checkpoint, -1 if there is none."""
    found = [p.name for p in (folder / "checkpoint").glob("*-0.02-0/*")]
    return max((int(name) for name in found if name.isdigit()), default=-1)


def trainer(text):
    """Training on the eight devices of this process."""
    task = tasks.text(models.shape("tiny"), data.read(text))
    task, told = meshes.onto(MESH, task, names.constructors([CHAIN]))
    evaluate = loop.evaluator(task)
    return loop.trainer(task, told[OPTIMIZER], STEPS, INTERVAL, evaluate)[0]


def stepped(made, steps):
    """The state after some steps."""
    state = made.initial(0)
    for begin in range(0, steps, INTERVAL):
        drawn = [made.task.draw(0, begin + i) for i in range(INTERVAL)]
        batches = made.task.where.share(np.stack(drawn))
        rate, count = np.float32(RUN.learning_rate), np.int32(INTERVAL)
        state, _ = made.train(state, rate, batches, count)
    return state


@pytest.mark.slow  # 3 minutes
def test_two_processes_are_one_and_survive_a_loss(text, tmp_path, contents):
    alone, cut, copied = (tmp_path / name for name in ("alone", "cut", "copied"))
    log = tmp_path / "alone.log"
    finish([start(words(text, alone), 8, log)], [log])

    (first, second), logs = two(text, cut)
    try:
        while saved(cut) < 4 and first.poll() is None:
            time.sleep(0.05)
        second.send_signal(signal.SIGKILL)
        began = time.monotonic()
        status = first.wait(timeout=60)
    finally:
        end(first, second)
    assert status == processes.LOST, logs[0].read_text()
    assert time.monotonic() - began < 30
    assert f"no sign of process 1 (pid {second.pid} on" in logs[0].read_text()
    assert "Start all of them again with --resume" in logs[0].read_text()

    shutil.copytree(cut, copied)
    step, made = saved(cut), trainer(text)
    state = checkpoint.restore(copied, RUN, made.like)  # two wrote it, one reads it
    expected = stepped(made, step)
    for ours, theirs in zip(
        jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)

    kept = [r for r in results.read(cut / "curves.jsonl") if r["step"] <= step]
    finish(*two(text, cut))
    assert results.read(cut / "curves.jsonl")[: len(kept)] == kept
    np.testing.assert_allclose(curve(cut), curve(alone), rtol=1e-5)
    assert set(contents(cut)) == set(contents(alone))  # no sign of life is left


@pytest.mark.slow  # 1 minute
def test_without_process_0_the_other_ends_too(text, tmp_path):
    (first, second), logs = two(text, tmp_path / "cut")
    try:
        while saved(tmp_path / "cut") < 0 and first.poll() is None:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        status = second.wait(timeout=30)
    finally:
        end(first, second)
    assert status in (processes.LOST, -signal.SIGABRT), logs[1].read_text()


def watch(folder, index, silence=0.5):
    """One that is asked by hand: its own thread would look too, and end the tests."""
    found = processes.Watch(folder, index, 2, silence)
    found.stop(done=False)
    return found


def test_who_falls_silent_is_named(tmp_path):
    watch(tmp_path, 1)
    ours = watch(tmp_path, 0)
    assert ours.lost() == []  # the first look
    time.sleep(0.6)
    (lost,) = ours.lost()
    assert lost == f"process 1 (pid {os.getpid()} on {socket.gethostname()})"
    watch(tmp_path, 1)._sign()
    assert ours.lost() == []  # back again


def test_who_never_came_is_lost_and_who_is_done_is_not(tmp_path):
    ours = watch(tmp_path, 0)
    assert ours.lost() == []
    time.sleep(0.6)
    assert ours.lost() == ["process 1"]
    watch(tmp_path, 1).stop(done=True)
    ours.lost()
    time.sleep(0.6)
    assert ours.lost() == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"processes": 2}, "--processes 2 without --mesh. Expected a mesh of all"),
        ({"processes": 2, "mesh": "dp=8"}, "--processes 2 with --process None"),
        (
            {"processes": 2, "mesh": "dp=8", "process": 2, "coordinator": "here:1"},
            "Expected the number of this process, from 0",
        ),
        ({"processes": -1, "mesh": "dp=8"}, "--processes -1"),
    ],
)
def test_a_mistake_is_one_message(given, expected):
    with pytest.raises(config.UsageError) as error:
        config.check(config.Compare(**given))
    assert expected in str(error.value)
