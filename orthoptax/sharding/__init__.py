# SPDX-License-Identifier: Apache-2.0
"""Sharded parameters: what moves, where, and what it costs.

A place says where the links of `on_matrices` run; no link knows of it. `automatic` is
that of every named optimizer, `whole_matrices` puts matrices together by one exchange,
`in_parts` leaves them where they are, for links that can sum over a mesh (Dion's).
"""

from orthoptax.sharding.automatic import automatic
from orthoptax.sharding.compiled.collectives import Collective
from orthoptax.sharding.compiled.counting import Counted, count
from orthoptax.sharding.parts import in_parts
from orthoptax.sharding.planning.plan import Plan, plan
from orthoptax.sharding.state import average, per_replica, state_specs, synchronize
from orthoptax.sharding.whole import whole_matrices

__all__ = [
    "Collective",
    "Counted",
    "Plan",
    "automatic",
    "average",
    "count",
    "in_parts",
    "per_replica",
    "plan",
    "state_specs",
    "synchronize",
    "whole_matrices",
]
