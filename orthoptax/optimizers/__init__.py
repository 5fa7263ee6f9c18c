# SPDX-License-Identifier: Apache-2.0
"""Named optimizers, one chain each; every function imported here is public."""

import inspect as _inspect

from orthoptax.optimizers.muon import muon as muon

__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll] - aliases export too
    name for name, thing in globals().items() if _inspect.isfunction(thing)
)
