# Everything runs in a virtual environment of its own, .venv, made from PYTHON.
# Nothing is installed again while setup.cfg, pyproject.toml and tools/bootstrap stay as they are.

PYTHON ?= python3
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help demo test test-real matrix bench lint docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/demo.stamp ## Tell the story of an audit trail, on a throw-away PostgreSQL
	@$(RUN) -m tools.demo $(ARGS)

test: $(VENV)/test.stamp ## Run the tests; ARGS="-k name" picks some
	@$(RUN) -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

test-real: $(VENV)/real.stamp ## Audit another project's models under its own workload
	@$(RUN) -m pytest tests/real -m real $(ARGS)

matrix: $(VENV)/test.stamp ## Run tests on old and new versions of everything; ARGS="14 3.10" picks
	@$(RUN) -m tools.matrix $(ARGS)

bench: $(VENV)/bench.stamp ## Measure what an audit costs, and write docs/performance.md; ARGS=--quick
	@$(RUN) -m benchmarks $(ARGS)

lint: $(VENV)/lint.stamp ## Check style and types
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy alembic_audit tools

docs: $(VENV)/docs.stamp ## Build the documentation, build/docs/index.html; a warning is an error
	@$(RUN) -m sphinx --quiet --fresh-env --fail-on-warning --keep-going \
		--doctree-dir build/doctrees docs build/docs

clean: ## Remove everything that was made here
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra: the demo does not wait for the linters.
$(VENV)/%.stamp: setup.cfg pyproject.toml tools/bootstrap
	@PYTHON="$(PYTHON)" sh tools/bootstrap $(VENV) $*
	@touch $@

.PRECIOUS: $(VENV)/%.stamp
