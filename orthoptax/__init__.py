# SPDX-License-Identifier: Apache-2.0
"""Optimizers built on orthogonalized updates, for JAX."""

__version__ = "0.1.0"
