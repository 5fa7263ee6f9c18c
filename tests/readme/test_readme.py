# SPDX-License-Identifier: Apache-2.0
"""Every block of the README runs and shows what it says."""

import contextlib
import io
import pathlib
import re
import shlex

import jax
import pytest

import orthoptax
from orthoptax.train import catalogue, main, names, variants

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for kind, code in BLOCKS
    if kind == "console"
    for line in code.replace("\\\n", "").splitlines()
]
RUN = main.COMMANDS
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
    assert {"make compare", "make test"} <= set(COMMANDS)
    for command in COMMANDS:
        program, _, target = command.partition(" ")
        assert program in ("make", "pip", "python")
        if program == "make":
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_chains_on_the_command_line_can_be_read(monkeypatch):
    read, lines = [], [shlex.split(c)[3:] for c in COMMANDS if "-m orthoptax" in c]
    programs = {kind: (settings, read.append) for kind, (settings, _) in RUN.items()}
    monkeypatch.setattr(main, "COMMANDS", programs)
    for words in lines:
        assert main.main(words) == 0
    compared, ablated, planned = read
    assert planned.model == "llama3-8b"
    assert len(names.constructors(compared.optimizers)) == 3
    changes = [v.change for v in variants.variants(ablated.base, ablated.replace)]
    assert ablated.replace[0] in changes


@pytest.mark.parametrize("name", orthoptax.optimizers.__all__)
def test_the_table_says_what_the_optimizer_is(name):
    rows = {row[1]: row for row in catalogue.listed(TEXT)}
    family, _, line, size, step, paper = rows[name]
    e = catalogue.entry(name)
    assert (family, line, paper) == (e.family, e.line, e.paper)
    assert float(step) > 0  # measured; `make table` writes it
    params = {"dense": {"kernel": jax.ShapeDtypeStruct((768, 3072), "float32")}}
    state = jax.eval_shape(getattr(orthoptax, name)(0.01).init, params)
    held = sum(
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves(state)
        if x.dtype != "int32" and x.dtype.itemsize == 4
    )
    assert size == f"{held / (768 * 3072):.2f}"


def test_the_table_has_no_others_and_says_when_and_where():
    assert sorted(r[1] for r in catalogue.listed(TEXT)) == orthoptax.optimizers.__all__
    assert re.search(r"\d{4}-\d\d-\d\d, \w.*cores, jax \d", TEXT)


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    files = [target for target in targets if not target.startswith("https://")]
    assert len(files) > 3
    for target in files:
        assert (ROOT / target).exists(), target
