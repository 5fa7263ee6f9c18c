# SPDX-License-Identifier: Apache-2.0
"""From a chain as text to an optimizer.

Links that work on matrices are marked (`matrix_link`); every longest run of them goes
into one `on_matrices`. A wrapper without a mark is one of them if all it wraps are.
What a wrapper in parameter coordinates holds is treated as the chain itself is; within
a matrix link nothing is wrapped again.

A link with a learning rate among its arguments gets it. Where there is none, the rate
is applied at the end, or before the first link that makes steps of its own.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import optax

from orthoptax._types import Compressor, Place
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.train import grammar, vocabulary
from orthoptax.train.config import UsageError, nearest, parts
from orthoptax.train.grammar import Argument, Chain, Link, Literal
from orthoptax.train.vocabulary import PLACE, RATE, Transform
from orthoptax.transforms.learning_rate import scale_by_learning_rate


class ChainOptimizer:
    """constructor(learning_rate): the optimizer that a text describes.

    The chain for the matrices, AdamW at the same rate for all other leaves.

    Args:
      text: the chain; see `grammar`.
      place: where its matrix links run; None: here.
    Raises: UsageError that points at the part which is wrong.
    """

    def __init__(self, text: str, place: Place | None = None):
        self.text, self.tree, self.place = text, grammar.parse(text), place
        self(0.0)  # all that can be wrong with the words is said now

    def __str__(self) -> str:
        return str(self.tree)

    def __call__(self, learning_rate: optax.ScalarOrSchedule) -> Transform:
        parts = self._chain(self._with_rate(self.tree), learning_rate, lift=True)
        rest = optax.adamw(learning_rate, weight_decay=0.0)
        return by_layout(matrix=optax.chain(*parts), rest=rest, place=self.place)

    def _mistake(self, *words: Any) -> UsageError:
        return grammar.mistake(self.text, *words)

    def _with_rate(self, chain: Chain) -> Chain:
        """The chain, with a link that applies the rate if none of it does."""
        applying = [link for link in chain.links if _applies_rate(link)]
        if len(applying) > 1:
            raise self._mistake(
                applying[1].whole,
                f"{applying[1].name!r} applies the learning rate a second time",
                f"one such link, here {applying[0].name!r}",
                "Remove one of them",
            )
        if applying:
            return chain
        steps = map(vocabulary.makes_steps, map(_thing, chain.links))
        at = next((i for i, makes in enumerate(steps) if makes), len(chain.links))
        added = Link(vocabulary.PLAIN_RATE, False, (), (0, 0), (0, 0))
        return Chain((*chain.links[:at], added, *chain.links[at:]))

    def _chain(
        self, chain: Chain, rate: Any, lift: bool, compressor: bool = False
    ) -> list[Transform]:
        """The links; if `lift`, every run of matrix links as one `on_matrices`."""
        for link in chain.links:
            self._check(link, compressor and link is chain.links[-1])
            if not lift and vocabulary.asks_of_params(_thing(link)):
                raise self._mistake(
                    link.whole,
                    f"{link.name!r} calls the loss, which knows no single matrices",
                    "links of matrices within a link of matrices",
                    "Put it before or after that link",
                )
        if not lift:
            return [self._make(link, _thing(link), rate, False) for link in chain.links]
        parts: list[Transform] = []
        for on_matrix, run in itertools.groupby(chain.links, works_on_matrices):
            inner = not on_matrix
            made = [self._make(link, _thing(link), rate, inner) for link in run]
            parts += [on_matrices(*made, place=self.place)] if on_matrix else made
        return parts

    def _check(self, link: Link, compressor: bool) -> None:
        thing = self._find(link, vocabulary.links)
        if not vocabulary.is_link(thing):
            raise self._mistake(
                link.whole,
                f"{link.name!r} is no link of a chain",
                f"one of {', '.join(vocabulary.links())}",
                "Put it within a link that takes it",
            )
        if compressor != vocabulary.is_link(thing, Compressor):
            raise self._mistake(
                link.whole,
                f"{link.name!r} is {'no' if compressor else 'a'} compressor",
                "compressors inside error_feedback(b1, ...), links elsewhere",
                "Replace it",
            )

    def _find(self, link: Link, known: Callable[[], list[str]]) -> Any:
        if link.name in vocabulary.words():
            return vocabulary.words()[link.name]
        near = nearest(link.name, known())
        raise self._mistake(
            link.span,
            f"{link.name!r} is unknown",
            f"one of {', '.join(known())}",
            f"Did you mean {near!r}? Replace it" if near else "Replace it",
        )

    def _make(self, link: Link, thing: Any, rate: Any, lift: bool) -> Any:
        """Calls what a name means with its arguments, all of them checked."""
        if not vocabulary.is_factory(thing):
            if not link.called:
                return thing
            wrong = f"{link.name!r} takes no arguments here"
            action = "Remove the parentheses"
            raise self._mistake(link.whole, wrong, "the name alone", action)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for index, argument in enumerate(link.arguments):
            parameter = self._parameter(link, thing, index, named)
            value = self._value(thing, argument, parameter, rate, lift)
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional += value
            else:
                named[parameter.name] = value
        if RATE in inspect.signature(thing).parameters:
            named[RATE] = rate
        if PLACE in inspect.signature(thing).parameters:
            named.setdefault(PLACE, self.place)
        if vocabulary.makes_steps(thing):
            for name in _link_arguments(link):
                named.setdefault(name, scale_by_learning_rate(rate))
        try:
            return thing(*positional, **named)
        except (TypeError, ValueError) as error:
            usage, action = vocabulary.usage(link.name, thing), "Change its arguments"
            raise self._mistake(link.whole, *parts(error, usage, action)) from error

    def _parameter(
        self, link: Link, thing: Any, index: int, taken: dict[str, Any]
    ) -> inspect.Parameter:
        """The parameter of the constructor that an argument is for."""
        argument, every = link.arguments[index], vocabulary.parameters(thing)
        if argument.keyword is not None:
            found = every.get(argument.keyword)
        else:
            places = [p for p in every.values() if p.kind is not p.KEYWORD_ONLY]
            open_ended = bool(places) and places[-1].kind is places[-1].VAR_POSITIONAL
            last = len(places) - 1
            at = min(index, last) if open_ended else index
            found = places[at] if at <= last else None
        if found is not None and found.name not in taken:
            return found
        wrong = "is not one of its arguments"
        if argument.keyword == RATE:
            wrong = "is the comparison's to give"
        elif found is not None:
            wrong = "is given twice"
        raise self._mistake(
            argument.span,
            f"{link.name}: {str(argument)!r} {wrong}",
            vocabulary.usage(link.name, thing),
            "Change or remove it",
        )

    def _value(
        self,
        thing: Any,
        argument: Argument,
        parameter: inspect.Parameter,
        rate: Any,
        lift: bool,
    ) -> Any:
        """A literal, a function, or for an argument that holds links, their chain."""
        value = argument.value
        if not vocabulary.takes_link(thing, parameter.name):
            return self._plain(thing, argument, parameter, rate)
        if isinstance(value, Literal):
            if value.value is None and parameter.default is None:
                return None
            raise self._mistake(
                value.span,
                f"{parameter.name!r} cannot be {str(value)!r}",
                f"one or more of {', '.join(vocabulary.links())}",
                "Replace it",
            )
        if vocabulary.makes_steps(thing):
            value = self._with_rate(value)
        compressor = parameter.name == vocabulary.COMPRESSOR
        parts = self._chain(value, rate, lift, compressor)
        if parameter.kind is parameter.VAR_POSITIONAL:
            return parts
        return parts[0] if len(parts) == 1 else optax.chain(*parts)

    def _plain(
        self, thing: Any, argument: Argument, parameter: inspect.Parameter, rate: Any
    ) -> Any:
        """A value that is no link."""
        value = argument.value
        switch = vocabulary.is_switch(thing, parameter.name)
        if isinstance(value, Literal):
            none = value.value is None and parameter.default is None
            if none or switch == isinstance(value.value, bool):
                return value.value
        elif len(value.links) == 1 and not switch:
            word = value.links[0]
            if not vocabulary.is_link(self._find(word, vocabulary.values)):
                meant = vocabulary.word_for(word.name, thing, parameter.name)
                return self._make(word, meant, rate, lift=False)
        others = f"a number, none or one of {', '.join(vocabulary.values())}"
        raise self._mistake(
            argument.span,
            f"{parameter.name!r} cannot be {str(value)!r}",
            "true or false" if switch else others,
            "Replace it",
        )


def works_on_matrices(link: Link) -> bool:
    """Whether a link stands in matrix coordinates; see the head of this file."""
    thing = _thing(link)
    if vocabulary.works_on_matrices(thing):
        return True
    if not vocabulary.is_link(thing) or vocabulary.lifts(thing):
        return False
    inner = [part for chain in chains_in(link) for part in chain.links]
    return bool(inner) and all(map(works_on_matrices, inner))


def chains_in(link: Link) -> list[Chain]:
    """The chains of links that a link holds, not its numbers and functions."""
    return [
        argument.value
        for argument in link.arguments
        if isinstance(argument.value, Chain)
        and vocabulary.is_link(vocabulary.words().get(argument.value.links[0].name))
    ]


def all_links(chain: Chain) -> Iterator[Link]:
    """The links of a chain and of the chains within them."""
    for link in chain.links:
        yield link
        for inner in chains_in(link):
            yield from all_links(inner)


def _applies_rate(link: Link) -> bool:
    """Whether a link applies the learning rate, by itself or by what it holds."""
    if vocabulary.owns_rate(_thing(link)):
        return True
    if vocabulary.makes_steps(_thing(link)):
        return bool(_link_arguments(link))
    inner = (part for chain in chains_in(link) for part in chain.links)
    return any(map(_applies_rate, inner))


def _link_arguments(link: Link) -> list[str]:
    """The arguments of a link that are links."""
    thing = _thing(link)
    every = vocabulary.parameters(thing)
    return [name for name in every if vocabulary.takes_link(thing, name)]


def _thing(link: Link) -> Any:
    return vocabulary.words().get(link.name)
