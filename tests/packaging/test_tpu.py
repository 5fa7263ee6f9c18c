# SPDX-License-Identifier: Apache-2.0
"""`make test-tpu`: that it alone runs its tests, and that it can do without libtpu."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
TESTS = "import pytest\ndef test(): pass\n@pytest.mark.slow\ndef test_slow(): pass\n"


@pytest.mark.parametrize(
    ("arguments", "collected"),
    [
        ([], ["tests/unit/test_any.py::test"]),
        (["tests"], ["tests/unit/test_any.py::test"]),
        (["-m", "slow"], ["tests/unit/test_any.py::test_slow"]),
        (["tests/tpu"], ["tests/tpu/test_any.py::test"]),
    ],
)
def test_only_a_run_that_names_the_folder_enters_it(tmp_path, arguments, collected):
    shutil.copy(TREE / "pyproject.toml", tmp_path)
    for folder in ("tpu", "unit"):
        file = tmp_path / "tests" / folder / "test_any.py"
        file.parent.mkdir(parents=True)
        file.write_text(TESTS)
    pytest_ = [sys.executable, "-m", "pytest", "-q", "--collect-only", *arguments]
    ran = subprocess.run(pytest_, cwd=tmp_path, capture_output=True, text=True)
    assert [line for line in ran.stdout.splitlines() if "::" in line] == collected


@pytest.mark.parametrize(
    ("fails", "installed"), [("nothing", "test,tpu"), ("test,tpu", "test")]
)
def test_where_pip_has_no_libtpu_the_tests_run_without_it(tmp_path, fails, installed):
    tree = tmp_path / "tree"
    for name in ("Makefile", "pyproject.toml", ".ci/venv.py", "orthoptax/__init__.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TREE / name, tree / name)
    python, calls = tree / ".venv-tpu" / "bin" / "python", tmp_path / "calls"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"[{fails}]"*) exit 1; esac\necho "$*" >> "{calls}"\n'
    )
    python.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    ran = subprocess.run(
        ["make", "test-tpu"], cwd=tree, env=env, capture_output=True, text=True
    )
    *_, install, tests = calls.read_text().splitlines()
    assert ran.returncode == 0
    assert ("without libtpu" in ran.stdout) == (installed == "test")
    assert install.endswith(f".[{installed}]")
    assert "pytest" in tests
    assert "tests/tpu" in tests
    assert not (tree / ".venv").exists()
