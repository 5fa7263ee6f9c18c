# SPDX-License-Identifier: Apache-2.0
"""How a parameter is a matrix: said once, used by all."""
