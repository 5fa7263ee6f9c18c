# SPDX-License-Identifier: Apache-2.0
"""Every block of the README runs and shows what it says."""

import contextlib
import io
import pathlib
import re

import pytest

import orthoptax

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
PYTHON = [code for kind, code in BLOCKS if kind == "python"]


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_block(number):
    code, printed = PYTHON[number], io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"README block {number}", "exec"), {"__name__": "readme"})
    kind, text = [*BLOCKS, ("", "")][1 + BLOCKS.index(("python", code))]
    assert printed.getvalue() == (text if kind == "text" else "")


def test_quick_starts_are_twelve_lines():
    for code in PYTHON[:2]:
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 13  # and the assertion that makes it a test


def test_console_blocks_name_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = [
        line.removeprefix("$ ")
        for kind, code in BLOCKS
        if kind == "console"
        for line in code.splitlines()
    ]
    assert {"make compare", "make test"} <= set(commands)
    for command in commands:
        program, _, target = command.partition(" ")
        assert program in ("make", "pip")
        if program == "make":
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_table_lists_every_optimizer():
    listed = re.findall(r"^\| [^|]+ \| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    assert sorted(listed) == sorted(orthoptax.optimizers.__all__)


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
