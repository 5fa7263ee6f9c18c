# SPDX-License-Identifier: Apache-2.0
"""Which axes of a leaf are the window of a convolution."""

from typing import Any

from orthoptax.layout.tables import flax

FLAX = flax()


def window_axes(path: str, leaf: Any) -> tuple[int, ...]:
    """The window's axes of (*window, in, out) kernels that `flax()` calls convolutions.

    None of any other leaf, also where the layout cannot tell.
    """
    try:
        role = FLAX.role(path, leaf)
    except ValueError:  # for a mean over nothing no answer is needed
        return ()
    single = role in ("convolution", "depthwise or one-channel convolution")
    return tuple(range(leaf.ndim - 2)) if single else ()
