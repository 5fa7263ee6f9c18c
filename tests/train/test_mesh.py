# SPDX-License-Identifier: Apache-2.0
"""`compare --mesh`: the numbers of one device, resumed on another mesh, its errors."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from orthoptax import optimizers
from orthoptax.train import (
    checkpoint,
    config,
    data,
    loop,
    meshes,
    models,
    names,
    results,
    tasks,
)
from orthoptax.train.main import main
from tests.conformance.discovery import placed

SHAPE = models.Shape(width=16, layers=2, heads=2, length=8, batch=8, validation=2)
STEPS, INTERVAL = 6, 2
CHAIN = "momentum | orthogonalize | keep_norm(normalize_neurons) | scale_by_shape"


class Killed(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="module")
def small():
    text = np.random.default_rng(0).integers(97, 123, 4000, np.uint8).tobytes()
    return tasks.text(SHAPE, data.split([text]))


@pytest.fixture(scope="module")
def trainer(small):
    """trainer(name, mesh): compiled once."""

    @functools.cache
    def trainer(name, mesh=None):
        task, told = small, names.constructors([name])
        if mesh is not None:
            task, told = meshes.onto(mesh, task, told)
        (constructor,) = told.values()
        evaluate = loop.evaluator(task)
        return loop.trainer(task, constructor, STEPS, INTERVAL, evaluate)[0]

    return trainer


def curve(folder, run):
    rows = results.of(run, results.read(folder / "curves.jsonl"))
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    return np.asarray([row["validation_loss"] for row in rows])


def train(folder, made, run, until=STEPS):
    """Trains, and is killed after the checkpoint of that step."""

    def report(progress):
        if progress.step > until:
            raise Killed

    loop.train(run, made, folder, STEPS, INTERVAL, report)


RUN = results.Run("it", 0.02, 0)


@pytest.fixture(scope="module")
def alone(trainer, tmp_path_factory):
    """alone(name): the losses on one device, worked out once."""
    known = {}

    def alone(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("alone")
            train(folder, trainer(name), RUN)
            known[name] = curve(folder, RUN)
        return known[name]

    return alone


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        pytest.param("muon", "fsdp=4,tp=2", marks=pytest.mark.slow),
        pytest.param("adamw", "dp=2,tp=2", marks=pytest.mark.slow),
        pytest.param("normuon", "dp=2,fsdp=2,tp=2", marks=pytest.mark.slow),
        pytest.param("dion", "fsdp=8", marks=pytest.mark.slow),
        pytest.param("muown", "fsdp=4,tp=2", marks=pytest.mark.slow),
        pytest.param("optax-muon", "dp=8", marks=pytest.mark.slow),
        pytest.param(CHAIN, "fsdp=2,tp=4", marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_one_device(name, mesh, trainer, alone, tmp_path):
    made = trainer(name, mesh)
    train(tmp_path, made, RUN)
    assert alone(name)[-1] < alone(name)[0] - 0.1
    np.testing.assert_allclose(curve(tmp_path, RUN), alone(name), rtol=2e-5)


@pytest.mark.slow
def test_parameters_and_momentum_are_cut_from_the_first_step(trainer):
    made = trainer("muon", "fsdp=4,tp=2")
    state = made.initial(0)
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
        lambda x: x.sharding, made.like
    )
    kernels = [
        x
        for path, x in jax.tree_util.tree_flatten_with_path(state)[0]
        if "'up'" in jax.tree_util.keystr(path)
    ]
    assert len(kernels) == 2  # the parameter and its momentum
    for x in kernels:
        assert x.shape == (2, 16, 64)
        assert x.addressable_shards[0].data.shape == (2, 4, 32)


def test_all_of_ours_are_given_the_place(small):
    found = names.constructors([*optimizers.__all__, CHAIN])
    task, told = meshes.onto("fsdp=4,tp=2", small, found)
    for name in placed():
        assert told[name].keywords["place"].mesh == task.where.mesh
    assert told[CHAIN].place.mesh == task.where.mesh


@pytest.mark.parametrize(
    "then", [pytest.param(m, marks=pytest.mark.slow) for m in (None, "dp=2,fsdp=2")]
)
def test_resumes_on_another_mesh(then, trainer, alone, tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, trainer("muon", "fsdp=4,tp=2"), RUN, until=3)
    made = trainer("muon", then)
    state = checkpoint.restore(tmp_path, RUN, made.like)
    assert int(state.step) == 2  # the checkpoint of step 4 was not written
    devices = 1 if then is None else 4
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(state)} == {devices}
    train(tmp_path, made, RUN)
    np.testing.assert_allclose(curve(tmp_path, RUN), alone("muon"), rtol=2e-5)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        ("fsdp=8,tp=2", "is of 16 devices and jax has 8, cpu. Expected a mesh of at"),
        ("fsdp=8,tp=2", "set JAX_NUM_CPU_DEVICES=16"),
        ("dp=3", "cuts a batch of 8 examples into 3. Expected dp times fsdp"),
        ("expert=2", "mesh axis 'expert' is unknown. Expected one of dp, fsdp, tp."),
        ("fsdp", "--mesh 'fsdp' cannot be read"),
    ],
)
def test_a_mistake_is_one_message(mesh, expected, small):
    with pytest.raises(config.UsageError) as error:
        meshes.onto(mesh, small, {})
    assert expected in str(error.value)


@pytest.mark.slow
def test_the_command_takes_a_mesh(text, tmp_path, monkeypatch, contents):
    shape = dataclasses.replace(SHAPE, learning_rates=(0.01,))
    monkeypatch.setitem(models.SHAPES, "tiny", shape)
    words = ["compare", "--data", str(text), "--out", str(tmp_path / "out")]
    words += ["--optimizers", "adamw", "--steps", "2", "--evaluate-every", "1"]
    assert main([*words, "--mesh", "dp=2"]) == 0
    before = contents(tmp_path / "out")
    assert main([*words, "--mesh", "fsdp=2", "--resume"]) == 0
    assert contents(tmp_path / "out") == before
