# SPDX-License-Identifier: Apache-2.0
"""`python -m orthoptax`: the command line, see `orthoptax.train.main`."""

from orthoptax.train.main import main

raise SystemExit(main())
