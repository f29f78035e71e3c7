# `make run` and `make test` need nothing but Python 3.11 or newer: the environment is built at first use.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# A first run says what growing was worth against both; one that goes on keeps its own. ARGS come later, and count.
CONTROLS = $(if $(findstring resume=,$(ARGS)),,"controls=[twin,final]")

.DEFAULT_GOAL := help
.PHONY: help run test test-all check sanitize docs bench evidence clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  Arguments pass through: make run ARGS="seed=3 policy=random", make test ARGS="-k config -x"'
	@echo '  Another interpreter:    make run PYTHON=python3.12 VENV=.venv312'

run: $(READY) ## Grow a population on handwritten digits (ARGS: overrides, see --help)
	@$(BIN)/python -m esper.run $(CONTROLS) $(ARGS)

test: $(READY) ## Run the fast tests (ARGS: pytest's arguments)
	@$(PYTEST) --dist worksteal -m "not slow" $(ARGS)

test-all: $(READY) ## Run all tests, as CI does (ARGS: pytest's arguments)
	@$(PYTEST) --dist loadgroup $(ARGS)

check: $(READY) ## Lint, formatting, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sanitize: $(READY) ## Run the kernels' tests under AddressSanitizer and UBSan (ARGS: pytest's arguments)
	@PYTHON=$(BIN)/python scripts/sanitize_kernels.sh $(ARGS)

docs: $(READY) ## Build the pages and an API reference as a site in build/site; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	@echo "build/site/index.html"

bench: $(READY) ## Measure the engine against plain PyTorch loops (ARGS: --json FILE, ...)
	@$(BIN)/python -m benchmarks.population $(ARGS)

evidence: $(READY) ## Learn policies, judge them on held-out hosts, write docs/evidence.md (over an hour, resumable)
	@$(BIN)/python -m benchmarks.evidence $(ARGS)

clean: ## Remove caches and build leftovers; keep runs, data and the environment
	rm -rf build dist *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "esper needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "Setting up $(VENV) (a few minutes at first use)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) -e '.[dev]'
	@touch $@
