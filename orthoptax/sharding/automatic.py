# SPDX-License-Identifier: Apache-2.0
"""The place of a named optimizer that was given none."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from orthoptax._axes import varying
from orthoptax._check import message
from orthoptax._types import Place
from orthoptax.layout.links import Leaf, MatrixLinks, here
from orthoptax.sharding.context import seen_sharding
from orthoptax.sharding.parts import InParts
from orthoptax.sharding.planning.calls import call
from orthoptax.sharding.planning.candidates import cheapest, compared
from orthoptax.sharding.planning.hardware import hardware_of
from orthoptax.sharding.planning.question import Question
from orthoptax.sharding.whole import WholeMatrices

Leaves = Mapping[str, Any]


class Automatic:
    """Here, except where the arrays show that they are cut over a mesh.

    On Explicit mesh axes the specs are read from the arrays, and the update runs where
    a `plan` for the devices of the mesh finds it cheapest: on whole matrices, in teams
    or not, or in parts. On devices that `HARDWARE` does not have, or in a dtype that
    they have no peak for, it runs on whole matrices. Under Auto axes nothing shows: the
    links run on global arrays and the compiler moves what it likes, until a place is
    passed. Inside `shard_map` and `pmap` parts of matrices would be taken for matrices,
    so there a place has to be named.
    """

    def whole(self, name: str, leaf: Any) -> Any:
        """The leaf, which is whole wherever this place runs."""
        del name
        return leaf

    def init(
        self, links: MatrixLinks, leaves: Leaves, about: Mapping[str, Leaf]
    ) -> Any:
        """The links' state."""
        return _choose(leaves).init(links, leaves, about)

    def update(
        self,
        links: MatrixLinks,
        leaves: Leaves,
        about: Mapping[str, Leaf],
        state: Any,
        params: Leaves | None,
        trees: Mapping[str, Leaves],
        extra: Mapping[str, Any],
    ) -> tuple[Any, Any]:
        """The links' update."""
        given = links, leaves, about, state, params, trees, extra
        place = _choose(leaves)
        if leaves and isinstance(place, WholeMatrices):
            place = _planned(given, leaves, place)
        return place.update(*given)


automatic = Automatic()


def _choose(leaves: Leaves) -> Place:
    """The place for leaves that are as these."""
    around = jax.sharding.get_abstract_mesh()
    if not around.empty and around.manual_axes:
        _check_whole(leaves, tuple(around.manual_axes))
        return here
    seen = [seen_sharding(x) for x in leaves.values()]
    if seen and all(s is not None and s.mesh.size > 1 for s in seen):
        return WholeMatrices()
    return here


def _planned(given: tuple[Any, ...], leaves: Leaves, default: Place) -> Place:
    """The cheapest place for an update of these arguments on Explicit axes."""
    seen = {name: seen_sharding(x) for name, x in leaves.items()}
    known = {name: s for name, s in seen.items() if s is not None}
    mesh = next(iter(known.values())).mesh
    chip = hardware_of(mesh)
    if chip is None:
        return default
    specs = {name: s.spec for name, s in known.items()}
    asked = [call(*given)]
    question = Question(asked, specs, dict(mesh.shape), None, None, chip)
    try:
        found = cheapest(compared(question), question).place
    except ValueError:  # no figure for this dtype; what is wrong raises below again
        return default
    if isinstance(found, (WholeMatrices, InParts)):
        return dataclasses.replace(found, specs=None)  # arrays show them
    return found


def _check_whole(leaves: Leaves, axes: tuple[str, ...]) -> None:
    """Raises unless `shard_map` knows all leaves to be replicated."""
    tracked = varying(jax.lax.axis_index(axes))
    for name, x in leaves.items():
        if tracked and not varying(x):
            continue
        how = (
            f"differs from device to device over {sorted(varying(x))}"
            if tracked
            else "may be a part of a matrix, which does not show here"
        )
        raise ValueError(
            message(
                "place",
                f"{name!r} of shape {tuple(x.shape)} is updated inside shard_map or "
                f"pmap over {list(axes)}, and {how}",
                "a place, which knows how the parameters are cut",
                "Pass place=orthoptax.sharding.whole_matrices(specs), with axes=(...) "
                "instead of specs if they are replicated and the work is to be shared, "
                "or place=orthoptax.layout.here if each device has whole matrices",
            )
        )
