# `make help` lists the targets. Everything runs in .venv, which `make setup` makes with uv, or with venv and pip.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# The first supported interpreter that is there; set PYTHON_FOR_VENV to choose another.
PYTHON_FOR_VENV ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
# Test processes; each is single-threaded.
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-zA-Z0-9_-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv with everything in it (again only when pyproject.toml has changed) and check it
	@$(PYTHON) -m sslam.environment

$(INSTALLED): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		set -ex; \
		[ -x $(PYTHON) ] || uv venv --python '>=3.11,<3.14' $(VENV); \
		uv pip install --python $(PYTHON) --editable '.[dev]'; \
	else \
		[ -n "$(PYTHON_FOR_VENV)" ] || { echo "sslam needs Python 3.11, 3.12 or 3.13, or uv; none was found. Install one, or run 'make setup PYTHON_FOR_VENV=/path/to/python'." >&2; exit 1; }; \
		set -ex; \
		[ -x $(PYTHON) ] || $(PYTHON_FOR_VENV) -m venv $(VENV); \
		$(PYTHON) -m pip install --disable-pip-version-check --editable '.[dev]'; \
	fi
	@touch $@

quickstart: setup ## set up and run the main job small: SSLAM pre-training on the built-in scenes, a few minutes on two cores
	$(VENV)/bin/sslam fit --config experiments/pretrain.yaml --config experiments/overrides/quickstart.yaml

test: setup ## set up and run all tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS)

check: setup ## lint and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup ## rewrite the code in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
