# SPDX-License-Identifier: Apache-2.0
"""`make` on a machine that lacks something, or has everything already.

A stand-in for python3 at the front of PATH plays the machine: it runs the real one
after taking away what that machine would not have.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
WITHOUT_VENV = "sys.modules['ensurepip'] = None"
TOO_OLD = "sys.version_info = (3, 9, 2)"


@pytest.fixture
def bare(tmp_path):
    """A tree with only what `make venv` reads, so that nothing here is touched."""
    tree = tmp_path / "tree"
    for name in ("Makefile", "pyproject.toml", ".ci/venv.py", "orthoptax/__init__.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TREE / name, tree / name)
    return tree


def make(tree, *arguments, python=None):
    """`make ARGUMENTS` in `tree`, where python3 first carries out `python`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYTHON"))}
    if python is not None:
        fake = tree.parent / "bin" / "python3"
        fake.parent.mkdir()
        fake.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -c "import runpy, sys; {python}; '
            "sys.argv = sys.argv[1:]; "
            'runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$@"\n'
        )
        fake.chmod(0o755)
        env["PATH"] = f"{fake.parent}{os.pathsep}{env['PATH']}"
    return subprocess.run(
        ["make", *arguments], cwd=tree, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("target", ["venv", "test", "compare"])
def test_without_venv_package_it_prints_the_apt_line(bare, target):
    ran = make(bare, target, python=WITHOUT_VENV)
    exact = "python{}.{}-venv".format(*sys.version_info)
    assert ran.returncode != 0
    assert f"apt-get install python3-venv {exact}\n" in ran.stderr
    assert not (bare / ".venv").exists()


def test_old_python_is_named_with_what_is_expected(bare):
    ran = make(bare, "venv", python=TOO_OLD)
    assert ran.returncode != 0
    assert "is Python 3.9. Expected Python 3.11 or newer." in ran.stderr
    assert not (bare / ".venv").exists()


def test_missing_python_is_said(bare):
    ran = make(bare, "venv", "PYTHON=python3.999")
    assert ran.returncode != 0
    assert "no python3.999 on PATH" in ran.stderr


def test_help_is_what_make_alone_prints_and_names_every_command(bare):
    phony = (TREE / "Makefile").read_text().rsplit(".PHONY:", 1)[1].split()
    ran = make(bare)
    described = [line.split()[1] for line in ran.stdout.splitlines()]
    assert ran.returncode == 0
    assert sorted(described) == sorted(set(phony) - {"help"})


@pytest.mark.parametrize(
    ("name", "line"),
    [("pyproject.toml", "# changed"), ("orthoptax/__init__.py", '__version__ = "9"')],
)
def test_environment_is_set_up_once_and_again_after_a_change(bare, name, line):
    calls = bare.parent / "calls"
    pip = bare / ".venv" / "bin" / "python"
    pip.parent.mkdir(parents=True)
    pip.write_text(f'#!/bin/sh\necho "$*" >> "{calls}"\n')
    pip.chmod(0o755)

    def installs():
        assert make(bare, "venv").returncode == 0
        return calls.read_text().count("pip install")

    assert installs() == 1
    assert installs() == 1
    changed = bare / name
    changed.write_text(f"{line}\n{changed.read_text()}")
    assert installs() == 2


def test_failed_install_is_an_error_and_is_tried_again(bare):
    pip = bare / ".venv" / "bin" / "python"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\n[ "$3" = --version ]\n')
    pip.chmod(0o755)
    for _ in range(2):
        ran = make(bare, "venv")
        assert ran.returncode != 0
        assert "pip install" in ran.stderr
