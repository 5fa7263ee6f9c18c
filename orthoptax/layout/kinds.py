# SPDX-License-Identifier: Apache-2.0
"""From kinds of leaves, written unstacked, to rules that know layer and expert axes."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from orthoptax._check import message
from orthoptax.layout.rules import Ambiguous, Rule, Rules, rules
from orthoptax.layout.view import MatrixView


def component(names: Iterable[str]) -> str:
    """Pattern: one of these names is a whole component of the path."""
    return rf"(^|/)({'|'.join(re.escape(n) for n in names)})"


def container(names: Iterable[str]) -> str:
    """Pattern: inside a container of one of these names, and not of its numbered items."""
    return component(names) + r"/(?!\d+(/|$))"


@dataclasses.dataclass(frozen=True)
class Stacking:
    """Where the axes that stacking adds to a leaf are.

    Args:
      scan_axis: position of the layer axis; None: 0, and only in containers.
      scanned: pattern of names inside a scanned container.
      experts: pattern of names inside a container of experts, whose axis comes first.
    """

    scan_axis: int | None
    scanned: str
    experts: str

    def expand(self, kind: Rule) -> list[Rule]:
        """The rule of an unstacked kind, and those of its stacked forms.

        A kind without a number of axes (a gain, a bias) is what it is however stacked.
        One with two axes is itself wherever it stands; one with more could be a stack
        of a smaller kind, and is itself only outside the containers.
        """
        if kind.ndim is None or not isinstance(kind.view, MatrixView | None):
            return [kind]
        scan = 0 if self.scan_axis is None else self.scan_axis
        both = f"{self.scanned}|{self.experts}"
        plain = kind if kind.ndim == 2 else _but(kind, both)
        expert = _inserted(kind, 0)
        return [
            plain,
            dataclasses.replace(
                _but(_inserted(kind, scan), self.experts),
                inside=self.scanned, role=f"{kind.role}, scanned",
            ),
            dataclasses.replace(
                _but(expert, self.scanned),
                inside=self.experts, role=f"{kind.role}, experts",
            ),
            dataclasses.replace(
                _but(_inserted(expert, scan), None),
                inside=f"(?=.*{self.scanned})(?=.*{self.experts})",
                role=f"{kind.role}, scanned experts",
            ),
        ]

    def everywhere(self, kind: Rule) -> list[Rule]:
        """The stack of a kind outside any container, if `scan_axis` was given."""
        if self.scan_axis is None:
            return []
        rule = _but(_inserted(kind, self.scan_axis), f"{self.scanned}|{self.experts}")
        return [dataclasses.replace(rule, role=f"{kind.role}, scanned")]


def stacking(
    where: str, scan_axis: int | None, scanned: Sequence[str], experts: Sequence[str]
) -> Stacking:
    """A checked `Stacking`."""
    if scan_axis not in (None, 0, 1):
        raise ValueError(
            message(where, f"scan_axis={scan_axis!r} is not an axis that layers are "
                    "stacked on", "0, 1 or None", "Pass scan_axis=0 or scan_axis=1")
        )
    for name, value in (("scanned", scanned), ("experts", experts)):
        if isinstance(value, str):
            raise TypeError(
                message(where, f"{name}={value!r} is one string", "a tuple of names",
                        f"Write {name}=({value!r},)")
            )
    return Stacking(scan_axis, container(scanned), container(experts))


def ask(pattern: str, ndim: int, *readings: tuple[str, str]) -> Rule:
    """A rule that answers with a question: each reading and what settles it."""
    return Rule(pattern, Ambiguous(readings), "ambiguous", ndim)


def layered(
    where: str,
    overrides: Sequence[Rule | tuple[str, MatrixView | None]],
    table: Sequence[Rule],
    questions: Sequence[Rule],
) -> Rules:
    """The caller's rules, else the table, else a question, else an error."""
    base = rules(*table, base=rules(*questions, where=where), where=where)
    return rules(*overrides, base=base, where=where)


def _inserted(kind: Rule, axis: int) -> Rule:
    """The kind with one more axis, at this position, in batch."""
    move = lambda axes: tuple(a + (a >= axis) for a in axes)  # noqa: E731
    view, when, ndim = kind.view, kind.when, kind.ndim
    if isinstance(view, MatrixView):
        view = dataclasses.replace(view, rows=move(view.rows), cols=move(view.cols))
    if when is not None:
        inner = when
        when = lambda shape: inner(shape[:axis] + shape[axis + 1 :])  # noqa: E731
    return dataclasses.replace(kind, view=view, when=when, ndim=ndim and ndim + 1)


def _but(kind: Rule, unless: str | None) -> Rule:
    """The kind with one more exclusion."""
    both = "|".join(p for p in (kind.unless, unless) if p)
    return dataclasses.replace(kind, unless=both or None)
