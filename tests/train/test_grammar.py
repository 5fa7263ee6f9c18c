# SPDX-License-Identifier: Apache-2.0
"""The grammar: what it reads, what it refuses and where it points."""

import random

import pytest

from orthoptax.train import grammar
from orthoptax.train.config import UsageError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("a", "a"),
        ("a()", "a"),
        ("a|b", "a | b"),
        (" a ( 1 ,x = .5 )\n| b", "a(1, x=0.5) | b"),
        ("a(-1e-7, +3, 1., TRUE, False, None)", "a(-1e-07, 3, 1.0, true, false, none)"),
        ("a(b | c(2), k=d(e=f))", "a(b | c(2), k=d(e=f))"),
    ],
)
def test_one_canonical_spelling(text, canonical):
    assert str(grammar.parse(text)) == canonical
    assert str(grammar.parse(canonical)) == canonical


def test_values_are_numbers_words_and_chains():
    (link,) = grammar.parse("a(3, 0.5, true, none, b | c, k=d)").links
    values = [argument.value for argument in link.arguments]
    literals = [v.value for v in values if isinstance(v, grammar.Literal)]
    assert literals == [3, 0.5, True, None]
    assert [type(v) for v in literals] == [int, float, bool, type(None)]
    chains = [v for v in values if isinstance(v, grammar.Chain)]
    assert [[part.name for part in chain.links] for chain in chains] == [
        ["b", "c"],
        ["d"],
    ]
    assert [argument.keyword for argument in link.arguments] == [None] * 5 + ["k"]


def test_spans_are_places_in_the_text():
    text = "first | second(x=0.5, y=inner(1) | last)"
    link = grammar.parse(text).links[1]
    part = lambda span: text[slice(*span)]
    assert part(link.span) == "second"
    assert part(link.whole) == "second(x=0.5, y=inner(1) | last)"
    assert part(link.arguments[0].span) == "x=0.5"
    assert part(link.arguments[0].value.span) == "0.5"
    assert part(link.arguments[1].value.span) == "inner(1) | last"


@pytest.mark.parametrize(
    ("text", "pointed_at", "wrong", "expected"),
    [
        ("", "", "the end stands where", "the name of a link"),
        ("a | | b", "|", "'|' stands where", "the name of a link"),
        ("a |", "", "the end stands where", "the name of a link"),
        ("a b", "b", "'b' stands where", "'|' or the end"),
        ("a(1", "", "the end stands where", "',' or ')'"),
        ("a(1 2)", "2", "'2' stands where", "',' or ')'"),
        ("a(1,)", ")", "')' stands where", "a number, true, false, none or a name"),
        ("a)", ")", "')' stands where", "'|' or the end"),
        ("a(x=1, 2)", "2", "'2' stands where", "a keyword"),
        ("true | a", "true", "'true' stands where", "the name of a link"),
        ("3", "3", "'3' stands where", "the name of a link"),
        ("a(1e999)", "1e999", "'1e999' stands where", "a finite number"),
        ("a(0.5.5)", "0", "character '0' cannot be read", "names, numbers and"),
        ("a $ b", "$", "character '$' cannot be read", "names, numbers and"),
        ("a('x')", "'", "cannot be read", "names, numbers and"),
        ("a.b", ".", "character '.' cannot be read", "names, numbers and"),
        ("a(" * 17 + "1", "1", "'1' stands where", "at most 16 parentheses"),
    ],
)
def test_mistakes_say_what_and_where(text, pointed_at, wrong, expected):
    with pytest.raises(UsageError) as error:
        grammar.parse(text)
    message, shown, carets = str(error.value).split("\n")
    assert wrong in message
    assert f"Expected {expected}" in message
    assert message.endswith(".")
    at = carets.index("^")
    assert shown[at : at + carets.count("^")].strip() == pointed_at


def test_a_tab_or_a_line_break_does_not_move_the_carets():
    with pytest.raises(UsageError) as error:
        grammar.parse("a\n|\t$")
    assert str(error.value).split("\n")[1:] == ["  a | $", "      ^"]


def test_an_endless_text_is_refused_before_it_is_read():
    with pytest.raises(UsageError, match=r"4001 characters\. Expected at most 2000\."):
        grammar.parse("a | " * 1000 + "a")


def test_whatever_is_written_is_read_or_refused_in_words():
    rng = random.Random(0)
    pieces = [*"a(),=|1 .'", "b(", "-2e3", "none", "é"]
    read = 0
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 8)))
        try:
            tree = grammar.parse(text)
        except UsageError:
            continue  # nothing else may be raised
        read += 1
        assert str(grammar.parse(str(tree))) == str(tree)
    assert read > 50
