# SPDX-License-Identifier: Apache-2.0
"""What a compiled program costs, read from its text."""
