# Every task of the project, by name. `make` alone lists them.
#
# Each task sets the environment up first: a fresh clone needs python3 (3.11 or newer,
# with its venv module) and make. What `make services` installs is needed, too, by the
# tasks that call it first (test, bench, chaos, mutants): as root on Debian they install
# it, else they say what to install.

SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin

# Some images keep Python from storing what it has compiled. Tests start hundreds of
# processes: each would compile everything anew, four seconds instead of one.
unexport PYTHONDONTWRITEBYTECODE

# Three workers suit two cores: tests wait for processes more than they compute.
PYTEST_WORKERS ?= 3
PYTEST_ARGS ?=

# Of `make simulate`; `make test` plays the seeds from 0 to 10,007.
SEEDS ?= 10000
FIRST ?= 0

.PHONY: help
help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## create .venv from the lock (quick when it is current)
	@scripts/setup

.PHONY: services
services: ## install the services that tests start (RabbitMQ, Redis, PgBouncer; as root)
	@scripts/services

.PHONY: demo
demo: setup ## play the story: 2 servers, 3 workers, kills, nothing lost
	@$(BIN)/python examples/conversation/demo.py

.PHONY: dev
dev: setup ## serve the example graphs with an embedded PostgreSQL, reloading
	@$(BIN)/threadmill dev --config examples/conversation/langgraph.json

.PHONY: check
check: setup ## lint, format, types, layers and sizes (what CI runs first)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sizes.py

.PHONY: test
test: setup services ## run all tests (PYTEST_ARGS="-k name" selects)
	$(BIN)/pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)
	@$(if $(PYTEST_ARGS),,$(BIN)/python scripts/test_installed_postgres.py -q -n $(PYTEST_WORKERS))

.PHONY: test-oldest
test-oldest: ## run the tests marked "langgraph" on the oldest one allowed
	@scripts/setup .venv-oldest requirements-oldest.lock
	.venv-oldest/bin/pytest -n $(PYTEST_WORKERS) -m langgraph $(PYTEST_ARGS)

.PHONY: simulate
simulate: setup ## play schedules of faults in virtual time (SEEDS=10000 FIRST=0)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST)

.PHONY: bench
bench: setup services ## measure runs against LangGraph's own PostgreSQL saver
	@$(BIN)/python -m bench

# How many threads of ten checkpoints are there already; a million take some 23 GB.
THREADS ?= 1000000

.PHONY: bench-scale
bench-scale: setup ## measure beside very many threads (THREADS=1000000)
	@$(BIN)/python -m bench.scale --threads $(THREADS)

# How long: SECONDS of faults for `make chaos`, HOURS for `make chaos-long`.
SECONDS ?= 300
HOURS ?= 8
CHAOS_ARGS ?=

.PHONY: chaos
chaos: setup services ## harm a fleet under load and check every promise (SECONDS=300)
	@$(BIN)/python -m chaos --seconds $(SECONDS) $(CHAOS_ARGS)

.PHONY: chaos-long
chaos-long: setup services ## the same for hours (HOURS=8)
	@$(BIN)/python -m chaos --seconds $$(($(HOURS) * 3600)) $(CHAOS_ARGS)

# Numbers or parts of names of mutants; and options: `python -m tests.mutants --help`.
MUTANTS ?=

.PHONY: mutants
mutants: setup services ## break one guarantee after the other: who notices (MUTANTS="04 head")
	@$(BIN)/python -m tests.mutants $(MUTANTS)

.PHONY: docs
docs: setup ## check the documents: links, names, commands, examples (read: docs/index.md)
	$(BIN)/pytest -n $(PYTEST_WORKERS) tests/docs $(PYTEST_ARGS)
	@echo "read README.md, ARCHITECTURE.md and docs/index.md; they are plain Markdown"

.PHONY: lock
lock: ## resolve the dependencies into the lock files (LOCK_UPGRADE=1 moves them)
	@scripts/lock

.PHONY: fmt
fmt: setup ## format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: clean
clean: ## remove environments, private tools and caches
	rm -rf .venv .venv-oldest .tools build dist site
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
