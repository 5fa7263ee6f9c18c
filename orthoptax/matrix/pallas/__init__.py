# SPDX-License-Identifier: Apache-2.0
"""Symmetric products by kernels that compute one triangle; Pallas loads when used."""

from orthoptax.matrix.pallas.blocks import Blocks, blocks
from orthoptax.matrix.pallas.products import pallas_products

__all__ = ["Blocks", "blocks", "pallas_products"]
