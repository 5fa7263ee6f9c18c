# SPDX-License-Identifier: Apache-2.0
"""The command line: the only room that imports flax or reads strings that choose code.

Read `compare.py` and `ablate.py` for the jobs, `loop.py` for one training run,
`grammar.py` for chains as text.
"""
