# SPDX-License-Identifier: Apache-2.0
"""Every optimizer of matrices takes the same two steps on eight devices as on one."""

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from tests.conformance import discovery
from tests.sharding import steps

SHAPES = {
    "up": {"kernel": (8, 16), "bias": (16,)},
    "down": {"kernel": (16, 8)},
    "layers": {"up": {"kernel": (3, 8, 16)}},
}
SPECS = {
    "up": {"kernel": P("a", "b"), "bias": P()},
    "down": {"kernel": P("b", "a")},
    "layers": {"up": {"kernel": P(None, "a", "b")}},
}
"""FSDP over four, tensor parallel over two; five matrices on eight devices."""


def has_place(subject):
    """For `law`: optimizers of matrices; where the others run is not theirs to say."""
    return subject.is_optimizer and "place" in subject.parameters


every = discovery.law(has_place, fast=lambda s: s.name in discovery.WHOLE)
slow = discovery.law(has_place, fast=lambda s: False)
pytestmark = discovery.in_float64


def default(subject):
    """Its own kernel, where `steps` would take another."""
    return {"polar": None} if "polar" in subject.parameters else {}


@every
def test_with_specs_under_auto_axes(subject):
    updates, state, cut = steps.sharded(
        subject.name, SHAPES, SPECS, arguments=default(subject)
    )
    theirs = steps.local(subject.name, SHAPES, **default(subject))
    steps.assert_equal((updates, state), theirs)
    steps.assert_cut(updates[-1], cut)
    assert all(np.any(x) for x in jax.tree.leaves(theirs[0]))  # something moved


@every
def test_without_a_place_on_explicit_axes(subject):
    updates, state, cut = steps.sharded(
        subject.name, SHAPES, SPECS, explicit=True, arguments=default(subject)
    )
    theirs = steps.local(subject.name, SHAPES, **default(subject))
    steps.assert_equal((updates, state), theirs)
    steps.assert_cut(updates[-1], cut)


@slow
def test_inside_shard_map(subject):
    results = steps.inside(
        subject.name, SHAPES, SPECS, check_vma=True, arguments=default(subject)
    )
    theirs = steps.local(subject.name, SHAPES, **default(subject))
    steps.assert_equal(results, theirs)
