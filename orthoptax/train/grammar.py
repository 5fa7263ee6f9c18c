# SPDX-License-Identifier: Apache-2.0
"""Chains as text: tokens and a tree that remembers where it came from.

    chain := link ('|' link)*
    link  := name [ '(' [ argument (',' argument)* ] ')' ]
    argument := [ name '=' ] value
    value := number | true | false | none | chain

What the names mean is not known here. Nothing is ever evaluated as Python.
"""

import math
import re
from typing import NamedTuple

from orthoptax.train.config import UsageError

DEEPEST = 16  # parentheses within parentheses; nobody writes more
LONGEST = 2000  # characters
TOKEN = re.compile(
    r"(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<mark>[|(),=])"
    r"|(?P<space>\s+)"
)
WORDS = {"true": True, "false": False, "none": None}

Span = tuple[int, int]
"""Begin and end of a part of the text."""


class Literal(NamedTuple):
    """A number, true, false or none."""

    value: bool | int | float | None
    span: Span

    def __str__(self) -> str:
        return str(self.value).lower()


class Argument(NamedTuple):
    """A value handed to a link, with or without a keyword."""

    keyword: str | None
    value: "Literal | Chain"
    span: Span

    def __str__(self) -> str:
        return str(self.value) if self.keyword is None else f"{self.keyword}={self[1]}"


class Link(NamedTuple):
    """A name, perhaps called. `span` is that of the name, `whole` of the call too."""

    name: str
    called: bool
    arguments: tuple[Argument, ...]
    span: Span
    whole: Span

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.arguments))
        return f"{self.name}({inside})" if inside else self.name


class Chain(NamedTuple):
    """Links in order; written out, its one canonical spelling."""

    links: tuple[Link, ...]

    @property
    def span(self) -> Span:
        return self.links[0].whole[0], self.links[-1].whole[1]

    def __str__(self) -> str:
        return " | ".join(map(str, self.links))


class Token(NamedTuple):
    """A piece of the text; kind is 'number', 'name', 'mark' or 'end'."""

    kind: str
    text: str
    span: Span


def mistake(
    text: str, span: Span, wrong: str, expected: str, action: str
) -> UsageError:
    """The error for a part of a chain, which it underlines.

    Returns: a `UsageError` of three lines: what, the chain, carets under the part.
    """
    begin, end = span
    flat = re.sub(r"\s", " ", text)
    return UsageError(
        wrong,
        expected,
        action,
        f"\n  {flat}\n  {' ' * begin}{'^' * max(1, end - begin)}",
    )


def parse(text: str) -> Chain:
    """The tree of a chain. Raises UsageError that points at what it cannot read."""
    if len(text) > LONGEST:
        wrong, expected = f"a chain of {len(text)} characters", f"at most {LONGEST}"
        raise mistake(text[:40], (0, 40), wrong, expected, "Shorten it")
    return _Reader(text).all()


def _tokens(text: str) -> list[Token]:
    tokens, at = [], 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            span = at, at + 1
            raise mistake(
                text,
                span,
                f"character {text[at]!r} cannot be read",
                "names, numbers and | ( ) , =",
                "Remove or replace it",
            )
        if found.lastgroup != "space" and found.lastgroup is not None:
            tokens.append(Token(found.lastgroup, found[0], found.span()))
        at = found.end()
    return [*tokens, Token("end", "the end", (at, at))]


class _Reader:
    """One function a rule of the grammar; `self.at` is the next token."""

    def __init__(self, text: str):
        self.text, self.tokens = text, _tokens(text)
        self.at, self.depth = 0, 0

    def all(self) -> Chain:
        chain = self.chain()
        if self.token.kind != "end":
            raise self.unexpected("'|' or the end")
        return chain

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def take(self, mark: str) -> bool:
        """Steps over a mark if it is next."""
        found = self.token.kind == "mark" and self.token.text == mark
        self.at += found
        return found

    def unexpected(self, expected: str) -> UsageError:
        kind, text, span = self.token
        here = text if kind == "end" else repr(text)
        wrong = f"{here} stands where it cannot"
        return mistake(self.text, span, wrong, expected, "Change the chain there")

    def chain(self) -> Chain:
        links = [self.link()]
        while self.take("|"):
            links.append(self.link())
        return Chain(tuple(links))

    def link(self) -> Link:
        if self.token.kind != "name" or self.token.text.lower() in WORDS:
            raise self.unexpected("the name of a link")
        name = self.token
        self.at += 1
        if not self.take("("):
            return Link(name.text, False, (), name.span, name.span)
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.unexpected(f"at most {DEEPEST} parentheses within each other")
        arguments = self.arguments()
        self.depth -= 1
        whole = name.span[0], self.tokens[self.at - 1].span[1]
        return Link(name.text, True, arguments, name.span, whole)

    def arguments(self) -> tuple[Argument, ...]:
        found: list[Argument] = []
        while not self.take(")"):
            if found and not self.take(","):
                raise self.unexpected("',' or ')'")
            found.append(self.argument(keyword=any(a.keyword for a in found)))
        return tuple(found)

    def argument(self, *, keyword: bool) -> Argument:
        begin, after = self.token, self.tokens[min(self.at + 1, len(self.tokens) - 1)]
        if begin.kind == "name" and after.text == "=":
            self.at += 2
            value = self.value()
            return Argument(begin.text, value, (begin.span[0], value.span[1]))
        if keyword:
            raise self.unexpected("a keyword, as in the argument before")
        value = self.value()
        return Argument(None, value, value.span)

    def value(self) -> "Literal | Chain":
        kind, text, span = self.token
        if kind == "number":
            if not math.isfinite(float(text)):
                raise self.unexpected("a finite number")
            self.at += 1
            whole = re.fullmatch(r"[-+]?\d+", text) is not None
            return Literal(int(text) if whole else float(text), span)
        if kind == "name" and text.lower() in WORDS:
            self.at += 1
            return Literal(WORDS[text.lower()], span)
        if kind == "name":
            return self.chain()
        raise self.unexpected("a number, true, false, none or a name")
