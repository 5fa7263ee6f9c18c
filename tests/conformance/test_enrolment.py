# SPDX-License-Identifier: Apache-2.0
"""Every public name meets every law that applies to it."""

import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys
import types
import typing

import jax
import numpy as np
import optax
import pytest

import orthoptax
from orthoptax import sharding
from tests.conformance import discovery
from tests.conformance.discovery import (
    CURVED,
    FLOORS,
    OWN_SCALE,
    OWN_UNITS,
    WHOLE_TREE,
    kind,
    subjects,
)

FOLDER = pathlib.Path(__file__).parent
EVERY = {
    "test_types_stay", "test_types_stay_with_narrow_gradients",
    "test_narrow_parameters_step", "test_init_on_shapes_under_jit_and_eagerly_agree",
    "test_promotion_is_spelled_out", "test_state_is_documented_tuples_of_arrays",
    "test_state_is_as_in_the_manifest", "test_one_trace", "test_scan_and_cond",
    "test_donation", "test_sharded_equals_local",
    "test_gradients_of_any_scale_stay_finite", "test_hard_matrices_stay_finite",
    "test_is_a_transform_that_ignores_unknown_arguments",
    "test_params_may_be_missing_or_are_named", "test_wrapped_is_the_same",
    "test_multi_steps_accumulates", "test_lookahead_runs_the_fast_weights",
    "test_schedule_free_runs", "test_masks_and_missing_leaves",
    "test_map_params_gives_every_leaf_a_sharding", "test_resume_is_bitwise",
    "test_state_is_the_same_for_boxed_and_bare_leaves",
}  # fmt: skip
"""Laws for all transforms and optimizers."""

OPTIMIZERS = {
    "test_every_leaf_moves", "test_descends_on_a_quadratic",
    "test_zero_gradients_move_no_matrix", "test_tiny_gradients_move_every_matrix",
    "test_linen_train_state_learns",
    "test_nnx_optimizer_learns", "test_callables_are_asked_for",
}  # fmt: skip
"""Laws for whole optimizers."""

BY_ARGUMENT = {
    "test_state_does_not_depend_on_numbers": "a real number",
    "test_numbers_out_of_range": "a real number",
    "test_numbers_of_another_kind": "a real number",
    "test_state_does_not_depend_on_what_the_rate_is": "learning_rate",
    "test_schedules_count_from_zero": "learning_rate",
    "test_injected_rate_can_be_changed": "a rate that multiplies",
    "test_the_code_decides_after_a_restore": "a rate that multiplies",
    "test_injected_rate_is_that_of_the_step": "a rate that does not",
    "test_the_code_decides_how_a_step_bends": "a rate that does not",
    "test_types_stay_with_each_state_dtype": "a dtype",
    "test_another_rate_scale_without_rest": "the rate of AdamW",
    "test_a_scale_of_its_own_asks_for_no_rest": "a scale of its own",
    "test_another_rate_scale_with_rest": "shape_rule and rest",
    "test_inject_hyperparams": "keywords only",
    "test_integer_leaves": "a layout", "test_empty_trees": "a layout",
    "test_leaves_that_the_layout_does_not_know": "a layout",
    "test_vectors_are_no_matrices": "a matrix link",
    "test_what_is_needed_is_asked_for": "extra arguments",
    "test_nan_stays_in_its_leaf": "leaf by leaf",
    "test_nan_stays_in_its_layer": "leaf by leaf",
    "test_nan_reaches_every_leaf_or_nothing_moves": "the whole tree",
    "test_matrix_direction_ignores_powers_of_two": "no units",
    "test_matrix_direction_ignores_scale": "no units",
}  # fmt: skip
"""Laws for what has an argument of some kind, or is of one."""


def has(subject, what):
    """Whether a constructor has such an argument."""
    names, kinds = set(subject.parameters), inspect.Parameter
    variadic = {p.kind for p in subject.parameters.values()} & {kinds.VAR_POSITIONAL}
    rated = "learning_rate" in names
    ruled = {"shape_rule", "rest"} <= names
    return {
        "a real number": bool(subject.numbers()),
        "learning_rate": rated,
        "a rate that multiplies": rated and subject.name not in CURVED,
        "a rate that does not": rated and subject.name in CURVED,
        "a dtype": any(n.endswith("_dtype") for n in names),
        "shape_rule and rest": ruled,
        "the rate of AdamW": ruled and subject.name not in OWN_SCALE,
        "a scale of its own": ruled and subject.name in OWN_SCALE,
        "keywords only": not variadic,
        "a layout": "layout" in names or subject.on_matrices,
        "extra arguments": bool(subject.needs),
        "leaf by leaf": subject.name not in WHOLE_TREE,
        "the whole tree": subject.name in WHOLE_TREE,
        "no units": subject.is_optimizer and subject.name not in OWN_UNITS,
        "a matrix link": subject.on_matrices and subject.floor == "transforms",
    }[what]


@pytest.fixture(scope="module")
def collected():
    """(law, name) of all tests of this folder, slow ones too, whatever runs now."""
    command = [sys.executable, "-m", "pytest", str(FOLDER), "--collect-only", "-q"]
    command += ["-m", "", "-p", "no:cacheprovider", f"--ignore={__file__}"]
    root = FOLDER.parents[1]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stdout + out.stderr
    names = {s.name for s in subjects()}
    pairs = re.findall(r"::(test_\w+)\[(?:.*-)?(\w+)\]$", out.stdout, re.MULTILINE)
    pairs += re.findall(r"::(test_\w+)\[(\w+)-.*\]$", out.stdout, re.MULTILINE)
    return {(law, name) for law, name in pairs if name in names}


def test_every_name_meets_every_law(collected):
    wanted = {(law, s.name) for law in EVERY for s in subjects()}
    wanted |= {
        (law, s.name) for law in OPTIMIZERS for s in subjects() if s.is_optimizer
    }
    wanted |= {
        (law, s.name) for law, what in BY_ARGUMENT.items() for s in subjects()
        if has(s, what)
    }  # fmt: skip
    assert wanted - collected == set()
    assert {law for law, _ in collected} == EVERY | OPTIMIZERS | set(BY_ARGUMENT)


def test_every_public_name_is_of_a_known_kind():
    for floor in FLOORS:
        assert floor.__all__ == sorted(floor.__all__)
        for name in floor.__all__:
            assert kind(getattr(floor, name)), name


def test_every_public_object_is_in_a_list():
    # A constructor that its package imports and does not list would meet no law.
    for floor in FLOORS:
        public = {
            name for name, thing in vars(floor).items()
            if not name.startswith("_") and not isinstance(thing, types.ModuleType)
        }  # fmt: skip
        assert public == set(floor.__all__)


# Work inside `shard_map` alone; their laws stand in tests/sharding/test_dion.py.
ON_A_MESH = {sharding.average, sharding.per_replica}


def test_transforms_are_public_on_the_known_floors_only():
    # One that another package published would meet no law.
    listed = {s.constructor for s in subjects()} | ON_A_MESH
    packages = [m.name for m in pkgutil.iter_modules(orthoptax.__path__) if m.ispkg]
    assert len(packages) >= len(FLOORS)
    for package in packages:
        module = importlib.import_module(f"orthoptax.{package}")
        for thing in (vars(module) | vars(orthoptax)).values():
            if isinstance(thing, types.FunctionType) and thing not in listed:
                returns = typing.get_type_hints(thing).get("return")
                assert returns is not optax.GradientTransformationExtraArgs, thing
                assert returns is not optax.GradientTransformation, thing


def test_what_says_it_is_no_transform_is_none():
    for floor in FLOORS:
        for name in floor.__all__:
            thing = getattr(floor, name)
            if kind(thing) == "layout" and not needs_arguments(thing):
                assert not isinstance(thing(), optax.GradientTransformation)


def needs_arguments(function):
    """Whether a function has arguments without defaults."""
    return any(
        p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
    )


def test_names_are_of_one_object_each():
    names = [s.name for s in subjects()]
    assert len(set(names)) == len(names)
    found = {(s.floor, s.name) for s in subjects()}
    assert found >= {
        ("transforms", "orthogonalize"), ("transforms", "momentum"),
        ("layout", "on_matrices"), ("layout", "by_layout"),
        ("diagnostics", "record"), ("optimizers", "muon"),
    }  # fmt: skip


def test_an_alias_is_public_under_both_names_and_tested_under_one():
    others = {
        (name, getattr(floor, name).__name__)
        for floor in FLOORS
        for name in floor.__all__
        if getattr(getattr(floor, name), "__name__", name) != name
    }
    assert others == {("dion3", "nordion2")}
    assert orthoptax.dion3 is orthoptax.nordion2


def test_every_manifest_has_its_transform():
    manifests = {path.stem for path in (FOLDER / "manifests").iterdir()}
    assert manifests == {s.name for s in subjects()}


def undecided(x):
    """A function that says nothing of itself."""
    return x


def misplaced(b1: float) -> optax.GradientTransformationExtraArgs:
    """A transform that does not work with no arguments."""
    return optax.with_extra_args_support(optax.scale(b1))


@pytest.mark.parametrize(
    "thing", [undecided, 3, "muon", np.ones(2), jax.jit(undecided)]
)
def test_unknown_kinds_are_refused(thing):
    with pytest.raises(TypeError, match="no known kind"):
        kind(thing)


def test_a_transform_with_a_required_argument_is_refused():
    assert kind(misplaced) == "transform"
    with pytest.raises(TypeError, match="b1"):
        discovery.Subject("misplaced", "transforms", misplaced).make()
