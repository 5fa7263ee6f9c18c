# SPDX-License-Identifier: Apache-2.0
"""Which place costs least, from shapes alone; the chips and models to ask about."""
