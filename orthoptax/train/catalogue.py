# SPDX-License-Identifier: Apache-2.0
"""What the docstrings of the optimizers say, as rows of a table.

Each docstring states its family ("Family: Muon."), its memory ("Memory: m*n + m numbers
a matrix.") and its source; nothing is listed a second time anywhere.
"""

import inspect
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from orthoptax import optimizers

FAMILIES = (  # order of the table; a family that is not here comes last
    "Muon",
    "Adaptive",
    "Trust region",
    "Constrained",
    "One-sided",
    "Low rank and sparse",
    "Curvature",
    "Step size",
    "Without products",
)
ROWS, COLS = 3072, 768  # the matrix that bytes per parameter are given for
BEGIN, END = "<!-- optimizers -->", "<!-- /optimizers -->"


class Entry(NamedTuple):
    """One optimizer: name, family, line, memory formula, paper (title and link)."""

    name: str
    family: str
    line: str
    memory: str
    paper: str


def entries() -> list[Entry]:
    """Every public optimizer, by family.

    Raises: ValueError for a docstring that does not say all of it.
    """
    found = [entry(name) for name in optimizers.__all__]
    order = {family: i for i, family in enumerate(FAMILIES)}
    return sorted(found, key=lambda e: (order.get(e.family, len(order)), e.name))


def entry(name: str) -> Entry:
    """One optimizer's row, from its docstring."""
    text = inspect.getdoc(getattr(optimizers, name)) or ""
    flat = " ".join(text.split())
    said = {
        "Family": re.search(r"Family: ([^.]+)\.", flat),
        "Memory": re.search(r"Memory: (.+?) numbers a matrix", flat),
        "Source": re.search(r"Source: (.+?)(?:; code|\. Scale|$)", flat),
    }
    for section, match in said.items():
        if match is None:
            raise ValueError(
                f"catalogue: the docstring of {name!r} has no '{section}:'. Expected "
                "'Family: <name>.', 'Memory: <formula in m and n> numbers a matrix' "
                "and 'Source: <paper>'. Add what is missing."
            )
    family, memory, source = (m[1] for m in said.values() if m is not None)
    line = text.splitlines()[0].rstrip(".")
    return Entry(name, family, line, memory, paper(source))


def paper(source: str) -> str:
    """First author and year, or arXiv number with its link."""
    authors = source.split(",")[0]
    number = re.search(r"arXiv:(\d{4}\.\d{4,5})", source)
    if number is not None:
        return f"{authors}, [{number[1]}](https://arxiv.org/abs/{number[1]})"
    year = re.search(r"\b(19|20)\d\d\b", source)
    return f"{authors}, {year[0]}" if year else authors


def state_numbers(name: str, rows: int, cols: int) -> int:
    """How many numbers the state holds for one matrix; counts and keys are not any."""
    params = {"dense": {"kernel": jax.ShapeDtypeStruct((cols, rows), jnp.float32)}}
    tx = getattr(optimizers, name)(0.01)
    return sum(
        leaf.size
        for leaf in jax.tree.leaves(jax.eval_shape(tx.init, params))
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def bytes_per_parameter(name: str) -> float:
    """Bytes of float32 state a parameter, for a matrix of ROWS x COLS."""
    return 4 * state_numbers(name, ROWS, COLS) / (ROWS * COLS)


def markdown(costs: dict[str, Any], note: str) -> str:
    """The table of the README; costs[name] is the cost of a step over AdamW's."""
    lines = [
        BEGIN,
        "| family | name | is | bytes/param | step | paper |",
        "| --- | --- | --- | ---: | ---: | --- |",
        *(row(e, costs) for e in entries()),
        "",
        note,
        END,
    ]
    return "\n".join(lines)


def row(e: Entry, costs: dict[str, Any]) -> str:
    """One line of the table."""
    cost = f"{costs[e.name]:.3g}" if e.name in costs else "-"
    size = f"{bytes_per_parameter(e.name):.2f}"
    return f"| {e.family} | `{e.name}` | {e.line} | {size} | {cost} | {e.paper} |"


def replace_table(text: str, table: str) -> str:
    """A document with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(
            f"catalogue: the document has no table. Expected {BEGIN} and {END}. "
            "Add the two lines where the table is to stand."
        )
    return before + table + after


def listed(text: str) -> Iterable[tuple[str, ...]]:
    """(family, name, line, bytes, step, paper) of each row in a document's table."""
    table = text.partition(BEGIN)[2].partition(END)[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[1].startswith("`"):
            yield (cells[0], cells[1].strip("`"), *cells[2:])
