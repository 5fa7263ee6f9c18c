# SPDX-License-Identifier: Apache-2.0
"""Sharded parameters: what moves, where, and what it costs.

A place says where the links of `on_matrices` run; no link knows of it. `automatic` is
that of every named optimizer, `whole_matrices` puts matrices together by one exchange.
"""

from orthoptax.sharding.automatic import automatic
from orthoptax.sharding.collectives import Collective
from orthoptax.sharding.counting import Counted, count
from orthoptax.sharding.whole import whole_matrices

__all__ = ["Collective", "Counted", "automatic", "count", "whole_matrices"]
