# SPDX-License-Identifier: Apache-2.0
# Needs make and python3 (3.11 or newer, with its venv package); nothing else.
# Every command first sees to `.venv`, at no cost when nothing has changed.

# Taken by every command, and all of it, so that `.venv` is set up once.
EXTRAS = test,dev
# Up to four processes; neighbours stay together, as they share compiled code.
WORKERS = -n logical --maxprocesses 4 --dist worksteal
# Passed on to the program: make test ARGS="tests/unit -k polar"
ARGS =

RUN = .venv/bin/python -m

# An interpreter given by hand (make venv PYTHON=python3.12) replaces the one in `.venv`.
ifeq ($(origin PYTHON),undefined)
PYTHON = python3
else
EXACT = --exact
endif

FIND_PYTHON = command -v $(PYTHON) >/dev/null || { \
  echo 'venv: no $(PYTHON) on PATH. Expected Python 3.11 or newer. Install it:'; \
  echo '  apt-get install python3 python3-venv'; \
  exit 1; } >&2

help:
	@echo 'make venv      set up .venv [PYTHON=python3.12]; every command does'
	@echo 'make test      the fast tests [ARGS="tests/unit -k polar"]'
	@echo 'make slow      the tests marked slow'
	@echo 'make test-tpu  compile for TPUs, none needed [ARGS="-k muon"]'
	@echo 'make lint      ruff: rules and format'
	@echo 'make format    ruff: mend what it can'
	@echo 'make types     pyright on the package'
	@echo 'make compare   optimizers side by side [ARGS="--help"]'
	@echo 'make ablate    which links of a chain earn their keep [ARGS="--help"]'
	@echo 'make bench     every program in benchmarks/, quickly'
	@echo 'make table     measure every optimizer, rewrite the table of README.md'
	@echo 'make wheel     wheel and sdist into dist/'
	@echo 'make clean     remove .venv and all that was built'

venv:
	@$(FIND_PYTHON)
	@$(PYTHON) .ci/venv.py $(EXTRAS) $(EXACT)

test: venv
	$(RUN) pytest $(WORKERS) $(ARGS)

slow: venv
	$(RUN) pytest $(WORKERS) -m slow $(ARGS)

# libtpu is large and not for every machine: an environment of its own. Where pip has
# none, the environment is made without it and every test skips.
test-tpu:
	@$(FIND_PYTHON)
	@$(PYTHON) .ci/venv.py test,tpu .venv-tpu $(EXACT) || { \
	  echo 'test-tpu: going on without libtpu; the tests will be skipped'; \
	  $(PYTHON) .ci/venv.py test .venv-tpu $(EXACT); }
	.venv-tpu/bin/python -m pytest $(WORKERS) -rs tests/tpu $(ARGS)

lint: venv
	$(RUN) ruff check --output-format concise
	$(RUN) ruff format --check --output-format concise

format: venv
	$(RUN) ruff check --fix
	$(RUN) ruff format

types: venv
	$(RUN) pyright --pythonpath .venv/bin/python

compare: venv
	$(RUN) orthoptax compare $(ARGS)

ablate: venv
	$(RUN) orthoptax ablate $(ARGS)

bench: venv
	@for program in benchmarks/[!_]*.py; do \
	  echo "== $$program"; \
	  .venv/bin/python "$$program" --quick $(ARGS) || exit 1; \
	done

table: venv
	.venv/bin/python benchmarks/optimizers.py --readme README.md $(ARGS)

wheel: venv
	rm -rf dist
	$(RUN) build

clean:
	rm -rf .venv .venv-tpu .venv.lock dist build .pytest_cache .ruff_cache .hypothesis
	find orthoptax tests benchmarks notebooks -name __pycache__ -prune \
	  -exec rm -rf {} +

.PHONY: help venv test slow test-tpu lint format types compare ablate bench table wheel clean
