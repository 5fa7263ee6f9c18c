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
DION2 = "orthogonalize(newton_schulz(POLAR_EXPRESS_102, scale=frobenius(factor=1.02)))"
WRITTEN = {
    "muon": "momentum | orthogonalize | scale_by_shape",
    "normuon": "momentum | orthogonalize | keep_norm(normalize_neurons)"
    " | scale_by_shape",
    "adamuon": "momentum | sign | orthogonalize | second_moment | rms_align",
    "root": "momentum(ema=false) | soft_threshold | orthogonalize(by_shape)"
    " | scale_by_shape",
    "namo": "with_statistics(momentum(nesterov=false)"
    " | scale_by_input_norm(orthogonalize) | divide_by_norm | scale_by_shape)",
    "asgo": "with_statistics(momentum(0.9, nesterov=false) | one_sided | rms_align)",
    "dasgo": "with_statistics(momentum(0.9, nesterov=false) | divide_columns"
    " | rms_align)",
    "dion": "error_feedback(0.95, low_rank) | scale_by_shape(spectral_norm)",
    "dion2": f"error_feedback(0.95, submatrix({DION2}))"
    " | scale_by_shape(spectral_norm)",
    "nordion2": f"error_feedback(0.95, submatrix({DION2}"
    " | keep_norm(normalize_neurons), axis=-2)) | scale_by_shape(spectral_norm)",
    "polargrad": "momentum(nesterov=false)"
    " | scale_by_dual_norm(orthogonalize(newton_schulz(POLAR_EXPRESS_8)))",
    "auon": "momentum | energy_scale",
    "hybrid_auon": "momentum | orthogonalize | energy_scale",
    "spel": "momentum(nesterov=false) | orthogonalize(newton_schulz(QUINTIC))"
    " | project_weights(stiefel(newton_schulz(QUINTIC)))",
    "muown": "weight_norm(momentum(nesterov=false)"
    " | orthogonalize(newton_schulz(QUINTIC)) | scale_by_shape,"
    " scale_by_adam(0.9, 0.95) | decay_after(0))",
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

    def add(change: str, dropped: bool, rest: Chain) -> None:
        if str(rest) not in found:
            taken, name, number = {v.change for v in found.values()}, change, 1
            while name in taken:  # equal links stand in two places
                number += 1
                name = f"{change}, {number}"
            found[str(rest)] = Variant(name, dropped, str(rest))

    for change, rest in _dropped(chain):
        add(change, True, rest)
    for text in replacements:
        add(" ".join(text.split()), False, _replaced(chain, text))
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
        put_back = link.name == vocabulary.PLAIN_RATE  # by the parser
        if (before or after) and not (last or put_back):
            yield f"without {link}", Chain(before + after)
        holds_compressor = vocabulary.lifts(vocabulary.words()[link.name])
        for inner in chains_in(link):
            if not (holds_compressor or last):
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
