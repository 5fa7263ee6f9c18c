# SPDX-License-Identifier: Apache-2.0
"""The command line: the only room that imports flax or reads strings that choose code.

Read `compare.py` for the job, `loop.py` for one training run.
"""
