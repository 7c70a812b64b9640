# The one door. Needs Python 3.11 or newer, make and git; uv is used when it is there and never required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
PIP := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

# Tests run in this many processes, a file's in one: it may share a browser or a server. tests/conftest.py knows what
# auto is, and the order.
WORKERS ?= auto
OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "batchgen needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(PIP) --constraint requirements.lock --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing what tests and checks need"
	@$(PIP) --constraint requirements.lock --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed ## install, and make the catalogue of jobs/catalog.yaml against the emulator: no key, no cost
	@$(BIN)/batchgen run jobs/catalog.yaml --emulate

test: $(VENV)/installed-dev ## install, and run the tests side by side (WORKERS=1: one after the other)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(OPTIONS)

check: $(VENV)/installed-dev ## lint, format, strict types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/house

bench: $(VENV)/installed-dev ## measure beside other clients on one local server; results in .bench/
	@$(BIN)/python -m tests.benchmarks

clean: ## remove the virtual environment, caches and emulated pictures
	rm -rf $(VENV) .bench build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/witnesses/*/node_modules jobs/*.emulated
	find . -name __pycache__ -prune -exec rm -rf {} +
