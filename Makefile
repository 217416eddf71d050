# Every target that needs something installed installs it first, so any of them can be the first one.

SHELL := /bin/sh
PY := .venv/bin/python
PYTHON ?= .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11
ARGS ?=
ROWS ?=
PROFILE ?= short
ONLY ?=
EXCEPT ?=
SEED ?=
DIR ?=
FROM ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults bench growth up backup restore lint fmt gen lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing into .venv; every other target does this first
	@for python in $(PYTHON); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec $$python deploy/setup_venv.py $(if $(filter setup,$(MAKECMDGOALS)),--verbose); \
	  fi; \
	done; \
	echo "TaskFlow needs Python 3.11 or newer. Not found as any of: $(PYTHON)." >&2; \
	echo "Install one, or say where it is: make setup PYTHON=/path/to/python3" >&2; \
	exit 1

demo: setup ## Show the main features on a separate stack
	@$(PY) -m deploy.demo $(ARGS)

test: setup ## Run all tests; ARGS="-k name" for some
	@$(PY) -m pytest -q -n 2 --dist loadfile $(ARGS)

faults: setup ## Run the fault scenarios, which try to break each promise; PROFILE=long for all faults, ONLY=poison_events,… or EXCEPT=… for some, SEED=n to repeat a run
	@exec $(PY) -m tests.faults --profile $(PROFILE) $(if $(ONLY),--only $(ONLY)) $(if $(EXCEPT),--except $(EXCEPT)) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: setup ## Run the benchmarks of docs/performance.md; ROWS=P1,P4 for some
	@$(PY) -m tests.bench $(if $(ROWS),--rows $(ROWS))

growth: setup ## Measure and plot how costs grow with up to 100 times the data; ONLY=pages,… for some
	@$(PY) -m tests.bench.cost_growth $(if $(ONLY),--only $(ONLY)) $(ARGS)

up: setup ## Run everything on this machine until Ctrl-C
	@exec $(PY) -m deploy.local --exit-with-parent $(ARGS)

backup: setup ## Back up the stack while it runs, into backups/taskflow-<UTC time> or DIR=folder
	@exec $(PY) -m deploy.backup make $(if $(DIR),--to "$(DIR)") $(ARGS)

restore: setup ## Restore a backup into the data folder, which must be empty: FROM=folder
	@exec $(PY) -m deploy.backup restore "$(FROM)" $(ARGS)

lint: setup ## Check format, rules, types, imports, protos and that generated code is up to date
	@$(PY) -m deploy.lint

fmt: setup ## Format Python and proto files, and fix what the linter can fix
	@$(PY) -m ruff check --quiet --fix-only
	@$(PY) -m ruff format
	@.venv/bin/buf format --write

gen: setup ## Generate the Python stubs from the protos
	@$(PY) -m deploy.gen

lock: setup ## Update the versions in requirements.lock, after a change of pyproject.toml
	@.venv/bin/uv pip compile --quiet --generate-hashes --no-header --all-extras --group dev \
	  --no-emit-package taskflow-client --python-version 3.11 --universal pyproject.toml -o requirements.lock

.PHONY: audit
audit: setup ## Check the locked packages for known vulnerabilities; needs PyPI itself, not a mirror
	@.venv/bin/uv tool run --from pip-audit==2.10.1 pip-audit --strict --disable-pip --require-hashes -r requirements.lock

clean: ## Remove .venv and the caches of the tools; keep the data in .taskflow
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
