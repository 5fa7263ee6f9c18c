# SPDX-License-Identifier: Apache-2.0
"""A new optimizer is one file and one line; everything else finds it."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import orthoptax

PACKAGE = pathlib.Path(orthoptax.__file__).parent
TESTS = pathlib.Path(__file__).parents[1]
TOY = '''# SPDX-License-Identifier: Apache-2.0
"""Toy: the sign of the momentum, made orthogonal."""

import optax

from orthoptax._types import Layout
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import rest_or_adamw
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize


def toy(
    learning_rate: optax.ScalarOrSchedule,
    *,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonal steps, and nothing else.

    State:
      matrix: M and two counts. Memory: m*n numbers a matrix.
    Family: Toys.
    Source: Nobody, arXiv:1234.56789.
    """
    matrix = optax.chain(
        momentum(),
        on_matrices(orthogonalize(), layout=layout),
        scale_by_learning_rate(learning_rate),
    )
    rest = rest_or_adamw("toy", learning_rate, rest)
    return by_layout(matrix=matrix, rest=rest, layout=layout)
'''
LINE = "from orthoptax.optimizers.toy import toy as toy\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package and its tests, with the file and the line."""
    folder = tmp_path_factory.mktemp("house")
    leave = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(PACKAGE, folder / "orthoptax", ignore=leave)
    shutil.copytree(TESTS, folder / "tests", ignore=leave)
    shutil.copy(TESTS.parent / "pyproject.toml", folder)
    (folder / "orthoptax/optimizers/toy.py").write_text(TOY)
    exports = folder / "orthoptax/optimizers/__init__.py"
    text = exports.read_text()
    muon = re.compile(r"^from .* import muon as muon\n", re.MULTILINE)
    exports.write_text(muon.sub(lambda m: m[0] + LINE, text))
    assert exports.read_text().count("\n") == text.count("\n") + 1
    return folder


def python(house, *words):
    """What a Python in the copy prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_public(house):
    assert python(house, "-c", "import orthoptax; print(orthoptax.toy.__module__)") == (
        "orthoptax.optimizers.toy\n"
    )


def test_every_law_collects_it(house):
    command = ["-m", "pytest", "tests/conformance", "--collect-only", "-q", "-m", ""]
    laws = {
        name: set(re.findall(rf"::(\w+)\[(?:.*-)?{name}(?:-.*)?\]", out))
        for name in ("toy", "muon")
        for out in [python(house, *command, "-k", name, "-p", "no:cacheprovider")]
    }
    only_muon = {"test_types_stay_with_each_state_dtype"}  # for a dtype argument
    only_muon |= {"test_unknown_kinds_are_refused"}  # a string of that name
    only_muon |= {n for n in laws["muon"] if "numbers" in n or "another_rate" in n}
    assert len(laws["toy"]) > 30
    assert laws["toy"] >= laws["muon"] - only_muon


@pytest.mark.slow
def test_it_is_run_by_the_laws(house):
    python(house, "-m", "pytest", "tests/conformance", "-q", "-p", "no:cacheprovider",
           "-m", "", "-k", "toy and (test_one_trace or test_descends)")  # fmt: skip


def test_the_command_line_and_the_table_know_it(house):
    code = (
        "from orthoptax.train import catalogue, names\n"
        "print(*names.constructors(['toy']))\n"
        "print(catalogue.markdown({'toy': 2.5}, 'as measured'))"
    )
    first, *table = python(house, "-c", code).splitlines()
    assert first == "toy"
    paper = "Nobody, [1234.56789](https://arxiv.org/abs/1234.56789)"
    line = "Orthogonal steps, and nothing else"
    assert f"| Toys | `toy` | {line} | 4.00 | 2.5 | {paper} |" in table
