# SPDX-License-Identifier: Apache-2.0
"""The ready tables, under one roof; each has a file of its own."""

from orthoptax.layout.equinox import equinox
from orthoptax.layout.flax import flax
from orthoptax.layout.haiku import haiku
from orthoptax.layout.lists import EXPERTS, FUSED, HEADS, OUTPUTS, QUERIES, SCANNED
from orthoptax.layout.maxtext import maxtext

__all__ = [
    "EXPERTS",
    "FUSED",
    "HEADS",
    "OUTPUTS",
    "QUERIES",
    "SCANNED",
    "equinox",
    "flax",
    "haiku",
    "maxtext",
]
