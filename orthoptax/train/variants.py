# SPDX-License-Identifier: Apache-2.0
"""The chains of an ablation: a base, and what is left when one link is changed."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from orthoptax import optimizers
from orthoptax.train import grammar, vocabulary
from orthoptax.train.chains import ChainOptimizer, all_links, chains_in
from orthoptax.train.config import UsageError, unknown
from orthoptax.train.grammar import Chain, Link

ARROW = "->"
WRITTEN = {
    "muon": "momentum | orthogonalize | scale_by_shape",
}
"""Named optimizers as chains; each gives the updates of the optimizer of that name."""


class Variant(NamedTuple):
    """A chain that differs from the base in one link.

    change: what was done, in words; "base" for the base itself. dropped: whether the
    link is gone, and not replaced. chain: canonical spelling.
    """

    change: str
    dropped: bool
    chain: str


def variants(base: str, replacements: Sequence[str]) -> list[Variant]:
    """The base, then every link dropped once, then every replacement; none twice.

    A wrapper is dropped with all it holds, and taken off so that what it holds stays.

    Raises: UsageError for a chain that cannot be read or holds nothing to change.
    """
    chain = _read(base)
    found = {str(chain): Variant("base", False, str(chain))}
    for change, rest in _dropped(chain):
        found.setdefault(str(rest), Variant(change, True, str(rest)))
    for text in replacements:
        rest = _replaced(chain, text)
        found.setdefault(str(rest), Variant(" ".join(text.split()), False, str(rest)))
    for variant in found.values():
        ChainOptimizer(variant.chain)
    if len(found) == 1:
        raise UsageError(
            f"'{chain}' has one link and nothing to replace it with",
            "a chain of two links or more, or --replace",
            "Change --base",
        )
    return list(found.values())


def _read(base: str) -> Chain:
    if base in WRITTEN:
        base = WRITTEN[base]
    elif base in optimizers.__all__:
        raise unknown("chain of optimizer", base, WRITTEN, "--base")
    return ChainOptimizer(base).tree


def _dropped(chain: Chain, keep_last: bool = False) -> Iterator[tuple[str, Chain]]:
    """(what was done, the chain left) for each link, and each within a link."""
    for i, link in enumerate(chain.links):
        before, after = chain.links[:i], chain.links[i + 1 :]
        last = keep_last and not after
        if (before or after) and not last:
            yield f"without {link}", Chain(before + after)
        holds_compressor = vocabulary.lifts(vocabulary.words()[link.name])
        for inner in chains_in(link):
            if not holds_compressor:
                around = f"without {link.name} around {inner}"
                yield around, Chain(before + inner.links + after)
            for change, rest in _dropped(inner, keep_last=holds_compressor):
                new = _with_argument(link, inner, rest)
                yield change, Chain((*before, new, *after))


def _replaced(chain: Chain, text: str) -> Chain:
    """The chain with the links that the left side names replaced by the right side."""
    old, arrow, new = (part.strip() for part in text.partition(ARROW))
    if not (old and arrow and new):
        raise UsageError(
            f"--replace {text!r} is not of the form 'link {ARROW} chain'",
            f"for example 'orthogonalize {ARROW} orthogonalize(svd)'",
            "Change --replace",
        )
    wanted, links = str(grammar.parse(old)), ChainOptimizer(new).tree.links
    known = {word for link in all_links(chain) for word in (link.name, str(link))}
    if wanted not in known:
        raise unknown("link", wanted, known, "--replace")
    is_it = lambda link: wanted in (link.name, str(link))
    return _map(chain, lambda link: links if is_it(link) else None)


def _map(chain: Chain, new: Callable[[Link], tuple[Link, ...] | None]) -> Chain:
    """The chain with some links, also inner ones, replaced by others."""
    links: list[Link] = []
    for link in chain.links:
        instead = new(link)
        for inner in () if instead is not None else chains_in(link):
            link = _with_argument(link, inner, _map(inner, new))
        links += (link,) if instead is None else instead
    return Chain(tuple(links))


def _with_argument(link: Link, old: Chain, new: Chain) -> Link:
    arguments = tuple(
        argument._replace(value=new) if argument.value is old else argument
        for argument in link.arguments
    )
    return link._replace(arguments=arguments)
