# SPDX-License-Identifier: Apache-2.0
"""Name pattern -> matrix view: every rule is tried, exactly one answer must come."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, cast

from orthoptax._check import message
from orthoptax._types import Layout
from orthoptax.layout.view import MatrixView

Shape = tuple[int, ...]

Answer = MatrixView | str | Callable[[str, Shape], MatrixView | str | None] | None
"""What settles a question: a view (None: no matrix), arguments of the table's
constructor, or a function of the leaf's name and shape that returns either."""


@dataclasses.dataclass(frozen=True)
class Ambiguous:
    """The answer "this could be several things", each with what settles it.

    Args:
      readings: (what it could be, the `Answer` for that) pairs.
    """

    readings: tuple[tuple[str, Answer], ...]

    def options(self, where: str, name: str, shape: Shape) -> str:
        """One line a reading: what to type, and what the leaf is then."""
        lines = []
        for what, answer in self.readings:
            found = answer(name, shape) if callable(answer) else answer
            found = found if isinstance(found, str) else rule_line(name, found)
            lines.append(f"\n  {where}({found})  # {what}")
        return "".join(lines)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What leaves of one kind are.

    Args:
      pattern: regular expression searched for in the leaf's name.
      view: a `MatrixView`; None for "not a matrix"; `Ambiguous` to ask.
      role: a word for the routing table.
      ndim: number of axes it applies to; None for any.
      inside: found in the name too, for the rule to apply; a container, say.
      unless: not found in the name, for the rule to apply.
      when: a condition on the shape.
    """

    pattern: str
    view: MatrixView | Ambiguous | None
    role: str = ""
    ndim: int | None = None
    inside: str | None = None
    unless: str | None = None
    when: Callable[[Shape], bool] | None = None

    def applies(self, name: str, shape: Shape) -> bool:
        """Whether this rule has an answer for a leaf of this name and shape."""
        return (
            (self.ndim is None or self.ndim == len(shape))
            and re.search(self.pattern, name) is not None
            and (self.inside is None or re.search(self.inside, name) is not None)
            and (self.unless is None or re.search(self.unless, name) is None)
            and (self.when is None or self.when(shape))
        )

    def meaning(self, name: str, shape: Shape) -> Any:
        """The answer for one leaf, equal for views that mean the same axes."""
        view = self.view
        if not isinstance(view, MatrixView):
            return view
        return view.axes(shape, name), view.blocks, view.groups


@dataclasses.dataclass(frozen=True)
class Rules:
    """A layout made of rules, which `rules` builds.

    Args:
      table: the rules; all are tried and those that apply must agree.
      base: a layout asked about leaves for which no rule of the table applies.
      where: the name that error messages begin with.
    """

    table: tuple[Rule, ...]
    base: Layout | None = None
    where: str = "layout"

    def __call__(self, name: str, leaf: Any) -> MatrixView | None:
        """The view of a leaf; an error if none, several or an ambiguous one apply."""
        rule = self._find(name, tuple(leaf.shape))
        if rule is not None:
            return cast(MatrixView | None, rule.view)  # a question was raised as error
        return self.base(name, leaf) if self.base else None

    def role(self, name: str, leaf: Any) -> str:
        """The word for this leaf in the routing table."""
        rule = self._find(name, tuple(leaf.shape))
        if rule is not None:
            return rule.role
        return getattr(self.base, "role", lambda *_: "by the base layout")(name, leaf)

    def _find(self, name: str, shape: Shape) -> Rule | None:
        """The rule that decides; None to ask the base."""
        found = [r for r in self.table if r.applies(name, shape)]
        what = f"parameter {name!r} of shape {shape}"
        if len({r.meaning(name, shape) for r in found}) > 1:
            both = " and ".join(f'("{r.pattern}", {r.view})' for r in found)
            first = next(
                (r.view for r in found if isinstance(r.view, MatrixView)), None
            )
            raise ValueError(
                message(
                    self.where,
                    f"{what} matches rules that disagree: {both}",
                    "one answer",
                    "Narrow a pattern, or settle it in a layout above this one, "
                    f"rules({rule_line(name, first)}, base=layout)",
                )
            )
        if not found and self.base is None:
            raise ValueError(
                message(
                    self.where,
                    f"{what} matches no rule",
                    "a rule for every parameter",
                    f"Add {rule_line(name, None)} if it is not a matrix"
                    + _if_matrix(name, shape),
                )
            )
        if found and isinstance(found[0].view, Ambiguous):
            raise ValueError(
                message(
                    self.where,
                    f"{what} could be several things",
                    "one reading",
                    "Add the argument of one of"
                    + found[0].view.options(self.where, name, shape),
                )
            )
        return found[0] if found else None


def rules(
    *table: Rule | tuple[str, MatrixView | None],
    base: Layout | None = None,
    where: str = "layout",
) -> Rules:
    """A layout from (pattern, view) pairs.

    Every rule is tried on every leaf. Rules that agree are fine, rules that disagree
    are an error, and so is a leaf that no rule matches, unless `base` knows it.

    Args:
      *table: `Rule`s, or pairs of a regular expression, searched for in names such as
        'blocks/0/attn/kernel', and a `MatrixView` or None ("not a matrix").
      base: another layout, for leaves that no rule here matches.
      where: the name that error messages begin with.
    Returns: a `Rules`, which is a `Layout`.
    Raises: TypeError if an entry is neither; ValueError if a pattern does not compile;
      when called, ValueError naming the leaf, its shape and the rule to add.
    Example:
      >>> import jax.numpy as jnp
      >>> layout = rules(("w$", MatrixView(rows=(-1,), cols=(-2,))), ("b$", None))
      >>> layout("mlp/w", jnp.zeros((4, 8))).shapes((4, 8))
      [(8, 4)]
    """
    return Rules(tuple(_rule(entry) for entry in table), base, where)


def rule_line(name: str, view: MatrixView | None) -> str:
    """A rule to paste, for the leaf of this very name.

    Example:
      >>> rule_line("dense/kernel", MatrixView(rows=(1,), cols=(0,)))
      '("^dense/kernel$", MatrixView(rows=(1,), cols=(0,)))'
    """
    pattern = re.escape(name)
    raw = "r" if "\\" in pattern else ""
    shown = "None"
    if view is not None:
        blocks = f", blocks={view.blocks}" if view.blocks else ""
        groups = f", groups={view.groups}" if view.groups != 1 else ""
        shown = f"MatrixView(rows={view.rows}, cols={view.cols}{blocks}{groups})"
    return f'({raw}"^{pattern}$", {shown})'


def _rule(entry: Any) -> Rule:
    """A table entry as a Rule, checked."""
    if not isinstance(entry, Rule):
        if not (
            isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
        ):
            raise TypeError(
                message(
                    "rules",
                    f"entry {entry!r} is not a rule",
                    "(pattern, MatrixView or None), or a Rule",
                    'Write for example ("bias$", None)',
                )
            )
        entry = Rule(*entry)
    if not isinstance(entry.view, MatrixView | Ambiguous | None):
        raise TypeError(
            message(
                "rules",
                f"view {entry.view!r} of {entry.pattern!r} is no view",
                "a MatrixView or None",
                "Write MatrixView(rows=..., cols=...)",
            )
        )
    for pattern in filter(None, (entry.pattern, entry.inside, entry.unless)):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                message(
                    "rules",
                    f"pattern {pattern!r} does not compile: {error}",
                    "a regular expression",
                    "Escape it with re.escape",
                )
            ) from None
    if entry.role:
        return entry
    role = "rest" if entry.view is None else "matrix"
    return dataclasses.replace(entry, role=role)


def _if_matrix(name: str, shape: Shape) -> str:
    """What else to add, for a leaf that may be a matrix."""
    if len(shape) < 2:
        return ""
    line = rule_line(name, MatrixView(rows=(-1,), cols=(-2,)))
    return f", or {line} if its last axes are (in, out)"
