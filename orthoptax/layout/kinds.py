# SPDX-License-Identifier: Apache-2.0
"""From kinds of leaves, written unstacked, to rules that know layer and expert axes."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from orthoptax._check import message
from orthoptax.layout.lists import component, container, either, numbered
from orthoptax.layout.rules import Ambiguous, Answer, Rule, Rules, Shape, rules
from orthoptax.layout.view import MatrixView


@dataclasses.dataclass(frozen=True)
class Stacking:
    """Where the axes that stacking adds to a leaf are.

    Args:
      axis: position of the layer axis.
      given: whether the user named that axis, which then settles leaves of one axis too
        many outside the containers as well.
      scanned: pattern of names inside a scanned container.
      experts: pattern of names inside a container of experts, whose axis comes first.
      unstacked: pattern of names where, outside the containers, nothing is stacked.
      flat: whether a leaf of two axes in a container is a matrix that was not stacked;
        else it is not decided (a stack of gains has two axes too).
    """

    axis: int
    given: bool
    scanned: str
    experts: str
    unstacked: str
    flat: bool = True

    @property
    def containers(self) -> str:
        """Pattern of names inside a container of either sort."""
        return either(self.scanned, self.experts)

    def expand(self, kind: Rule, *, doubtful: bool = False) -> list[Rule]:
        """The rule of an unstacked kind, and those of its stacked forms.

        A kind without a number of axes (a gain, a bias) is what it is however stacked.
        One with two axes may stand in a container unstacked; one with more could be a
        stack of a smaller kind there, and is itself only outside.

        Args:
          kind: of the unstacked leaf.
          doubtful: outside the containers too it could be a stack of a smaller kind, so
            that a given `axis` leaves it undecided.
        Returns: rules, of which at most one applies to a leaf.
        """
        if kind.ndim is None or isinstance(kind.view, Ambiguous):
            return [kind]
        stays = kind.ndim == 2 and self.flat
        plain = kind if stays else _but(kind, self.containers)
        if doubtful and self.given:
            plain = dataclasses.replace(plain, inside=self.unstacked)
        scanned = _but(_inserted(kind, self.axis), self.experts)
        expert = _but(_inserted(kind, 0), self.scanned)
        both = _inserted(_inserted(kind, 0), self.axis)
        here = f"(?=.*(?:{self.scanned}))(?=.*(?:{self.experts}))"
        return [
            plain,
            _named(scanned, self.scanned, "scanned"),
            _named(expert, self.experts, "experts"),
            _named(both, here, "scanned experts"),
        ]

    def outside(self, kind: Rule) -> list[Rule]:
        """The scanned forms of a kind outside the containers, if the axis was given."""
        if not self.given:
            return []
        alone = _but(_inserted(kind, self.axis), self.containers)
        expert = _but(_inserted(_inserted(kind, 0), self.axis), self.scanned)
        return [
            _named(_but(alone, self.unstacked), None, "scanned"),
            _named(_but(expert, self.unstacked), self.experts, "scanned experts"),
        ]


def stacking(
    where: str,
    scan_axis: int | None,
    scanned: Sequence[str],
    experts: Sequence[str],
) -> Stacking:
    """A checked `Stacking`; what carries a number is not stacked."""
    if scan_axis not in (None, 0, 1) or isinstance(scan_axis, bool):
        raise ValueError(
            message(
                where,
                f"scan_axis={scan_axis!r} is not an axis that layers are stacked on",
                "0, 1 or None",
                "Pass scan_axis=0 or scan_axis=1",
            )
        )
    return Stacking(
        axis=scan_axis or 0,
        given=scan_axis is not None,
        scanned=container(names(where, "scanned", scanned)),
        experts=container(names(where, "experts", experts)),
        unstacked=numbered(scanned),
    )


def names(where: str, argument: str, value: Sequence[str]) -> tuple[str, ...]:
    """A tuple of names, where one string is a likely slip."""
    if isinstance(value, str):
        raise TypeError(
            message(
                where,
                f"{argument}={value!r} is one string",
                "a tuple of names",
                f"Write {argument}=({value!r},)",
            )
        )
    return tuple(value) or ("(no name)",)


def fused_kinds(
    where: str, fused: Mapping[str, Sequence[int]], leaf: str, view: MatrixView
) -> list[Rule]:
    """Kinds of fused projections: the blocks of the rows of `view`, by module name."""
    kinds = []
    for name, sizes in fused.items():
        if isinstance(sizes, int) or not all(isinstance(s, int) for s in sizes):
            raise TypeError(
                message(
                    where,
                    f"fused={{{name!r}: {sizes!r}}} gives no sizes",
                    "a tuple of integers, one a part",
                    f"Write for example fused={{{name!r}: (768, 256, 256)}}",
                )
            )
        blocks = dataclasses.replace(view, blocks=tuple(sizes))
        kinds.append(Rule(component([name]) + leaf, blocks, "fused", 2))
    return kinds


def sizes_line(
    rows: int, *, before: str = "", key: slice = slice(-2, -1)
) -> Callable[[str, Shape], str]:
    """The answer 'say the sizes', with equal parts of that axis as an example.

    Args:
      rows: which axis of the leaf holds the rows.
      before: other arguments that the same reading needs.
      key: the steps of the leaf's name that `fused` knows it by; its module.
    """

    def line(name: str, shape: Shape) -> str:
        module, total = "/".join(name.split("/")[key]), shape[rows]
        parts = next(n for n in (3, 4, 2, 1) if total % n == 0)
        return f'{before}fused={{"{module}": {(total // parts,) * parts}}}'

    return line


def ask(
    pattern: str,
    ndim: int | None,
    *readings: tuple[str, Answer],
    inside: str | None = None,
    unless: str | None = None,
) -> Rule:
    """A rule that answers with a question: each reading and what settles it."""
    return Rule(pattern, Ambiguous(readings), "ambiguous", ndim, inside, unless)


def layered(
    where: str,
    overrides: Sequence[Rule | tuple[str, MatrixView | None]],
    table: Iterable[Rule],
    questions: Iterable[Rule],
) -> Rules:
    """The caller's rules, else the table, else a question, else an error."""
    base = rules(*table, base=rules(*questions, where=where), where=where)
    return rules(*overrides, base=base, where=where)


def _inserted(kind: Rule, axis: int) -> Rule:
    """The kind with one more axis, at this position, in batch."""
    view, when, ndim = kind.view, kind.when, kind.ndim
    if isinstance(view, MatrixView):
        rows, cols = (
            tuple(a + (a >= axis) for a in axes) for axes in (view.rows, view.cols)
        )
        view = dataclasses.replace(view, rows=rows, cols=cols)
    if when is not None:
        inner = when
        when = lambda shape: inner(shape[:axis] + shape[axis + 1 :])
    return dataclasses.replace(kind, view=view, when=when, ndim=ndim and ndim + 1)


def _but(kind: Rule, unless: str) -> Rule:
    """The kind with one more exclusion."""
    return dataclasses.replace(kind, unless=either(kind.unless, unless))


def _named(kind: Rule, inside: str | None, word: str) -> Rule:
    """A stacked form of a kind: where it stands, and its role."""
    return dataclasses.replace(kind, inside=inside, role=f"{kind.role}, {word}")
