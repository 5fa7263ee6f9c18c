# SPDX-License-Identifier: Apache-2.0
"""Named optimizers, one chain each."""

from orthoptax.optimizers.muon import muon

__all__ = ["muon"]
