# SPDX-License-Identifier: Apache-2.0
"""Name pattern -> matrix view: every rule is tried, and exactly one answer must come."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from orthoptax._check import message
from orthoptax._types import Layout
from orthoptax.layout.view import MatrixView


@dataclasses.dataclass(frozen=True)
class Ambiguous:
    """The answer "this could be several things", each with the rule that settles it.

    Args:
      readings: (what it could be, what to type) pairs.
    """

    readings: tuple[tuple[str, str], ...]


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
    when: Callable[[tuple[int, ...]], bool] | None = None

    def applies(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether this rule has an answer for a leaf of this name and shape."""
        return (
            re.search(self.pattern, name) is not None
            and (self.inside is None or re.search(self.inside, name) is not None)
            and (self.unless is None or re.search(self.unless, name) is None)
            and (self.ndim is None or self.ndim == len(shape))
            and (self.when is None or self.when(shape))
        )


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
        rule = self.find(name, leaf)
        return self.base(name, leaf) if rule is None else rule.view  # type: ignore

    def role(self, name: str, leaf: Any) -> str:
        """The word for this leaf in the routing table."""
        rule = self.find(name, leaf)
        if rule is not None:
            return rule.role
        return getattr(self.base, "role", lambda *_: "")(name, leaf)

    def find(self, name: str, leaf: Any) -> Rule | None:
        """The rule that decides; None to ask the base."""
        shape = tuple(leaf.shape)
        found = [r for r in self.table if r.applies(name, shape)]
        answers = {r.view for r in found}
        what = f"parameter {name!r} of shape {shape}"
        if len(answers) > 1:
            both = " and ".join(f"({r.pattern!r}, {r.view})" for r in found)
            raise ValueError(
                message(self.where, f"{what} matches rules that disagree: {both}",
                        "one answer", "Narrow a pattern, or settle it with "
                        + _line(name, found[0].view))
            )
        if not found and self.base is None:
            raise ValueError(
                message(self.where, f"{what} matches no rule",
                        "a rule for every parameter", f"Add {_line(name, None)} if it "
                        "is not a matrix" + _suggestion(name, shape))
            )
        view = found[0].view if found else None
        if isinstance(view, Ambiguous):
            readings = "; or ".join(f"{k} ({v})" for k, v in view.readings)
            raise ValueError(
                message(self.where, f"{what} could be several things: {readings}",
                        "one reading", "Pass the argument named, or add the rule "
                        + _line(name, _dense(len(shape))) + " with the axes it has")
            )
        if isinstance(view, MatrixView):
            view.axes(shape, name)
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


def _rule(entry: Any) -> Rule:
    """A table entry as a Rule, checked."""
    if not isinstance(entry, Rule):
        if not (isinstance(entry, tuple) and len(entry) == 2):
            raise TypeError(
                message("rules", f"entry {entry!r} is not a rule",
                        "(pattern, MatrixView or None), or a Rule",
                        'Write for example ("bias$", None)')
            )
        entry = Rule(*entry)
    if not isinstance(entry.view, MatrixView | Ambiguous | None):
        raise TypeError(
            message("rules", f"view {entry.view!r} of {entry.pattern!r} is no view",
                    "a MatrixView or None", "Write MatrixView(rows=..., cols=...)")
        )
    try:
        re.compile(entry.pattern)
    except re.error as error:
        raise ValueError(
            message("rules", f"pattern {entry.pattern!r} does not compile: {error}",
                    "a regular expression", "Escape it with re.escape")
        ) from None
    if entry.role:
        return entry
    role = "rest" if entry.view is None else "matrix"
    return dataclasses.replace(entry, role=role)


def _dense(ndim: int) -> MatrixView | None:
    """The view of a stack of (in, out) kernels."""
    return MatrixView((-1,), (-2,)) if ndim >= 2 else None


def _line(name: str, view: Any) -> str:
    """A rule to paste, for this very leaf."""
    if isinstance(view, MatrixView):
        extra = f", blocks={view.blocks}" if view.blocks else ""
        shown = f"MatrixView(rows={view.rows}, cols={view.cols}{extra})"
    else:
        shown = "None"
    return f'("^{re.escape(name)}$", {shown})'


def _suggestion(name: str, shape: tuple[int, ...]) -> str:
    """What else to add, for a leaf that may be a matrix."""
    if len(shape) < 2:
        return ""
    return f", or {_line(name, _dense(len(shape)))} if its last axes are (in, out)"
