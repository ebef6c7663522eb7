# `make help` lists the targets. Settings, given as `NAME=value make test`:
#   PYTHON=python3.12   the interpreter to build the environment from (3.11, 3.12 or 3.13)
#   ACCELERATOR=cuda13  also install requirements-cuda13.txt (or cuda12, tpu)
#   LOCK=               install the newest versions that the requirements allow, not the locked ones

ACCELERATOR ?=
LOCK ?= requirements.lock
VENV ?= .venv
DEMO_WORKDIR ?= runs/demo

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.12 python3.13 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && { echo $$python; exit; }; done; echo python3)
endif

VENV_PYTHON := $(VENV)/bin/python
INSTALL := $(VENV_PYTHON) -m pip install --disable-pip-version-check $(if $(LOCK),-c $(LOCK))

# One empty file per set of packages that is in the environment. The file of the programs' set names
# the interpreter and the settings it was made with, so that changing one of them installs again.
PYTHON_VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
INSTALLED := $(VENV)/.installed-$(PYTHON_VERSION)$(ACCELERATOR:%=-%)$(if $(LOCK),,-newest)
INSTALLED_DEV := $(INSTALLED)-dev
REQUIREMENTS := requirements.txt $(ACCELERATOR:%=requirements-%.txt)

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: $(INSTALLED) ## Train, evaluate and report on the pictures in this repository
	$(VENV_PYTHON) -m oner_jax.train --config=configs/oner.py:demo --workdir=$(DEMO_WORKDIR)
	$(VENV_PYTHON) -m oner_jax.evaluate --workdir=$(DEMO_WORKDIR)
	@echo "The report: $(abspath $(DEMO_WORKDIR))/report/index.html"

.PHONY: test
test: lint ## Run the linters and every test but the slow ones
	$(VENV_PYTHON) -m pytest

.PHONY: test-slow
test-slow: $(INSTALLED_DEV) ## Run the tests that take a minute or more
	$(VENV_PYTHON) -m pytest -m slow

.PHONY: test-soak
test-soak: $(INSTALLED_DEV) ## Run the tests that look for leaks and drifts over many minutes
	$(VENV_PYTHON) -m pytest -m soak

.PHONY: lint
lint: $(INSTALLED_DEV) ## Check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

.PHONY: format
format: $(INSTALLED_DEV) ## Format the code and repair what the linter can repair by itself
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: venv
venv: $(INSTALLED_DEV) ## Make or refresh the environment in .venv

.PHONY: lock
lock: $(INSTALLED_DEV) ## Resolve requirements.lock anew, for all supported Pythons at once
	$(VENV_PYTHON) -m pip install --quiet "uv>=0.9,<1"
	$(VENV)/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 \
		--no-emit-index-url --custom-compile-command "make lock" \
		requirements.txt requirements-dev.txt --output-file requirements.lock

.PHONY: clean
clean: ## Remove the environment and all caches (keeps runs/)
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info

$(INSTALLED): $(REQUIREMENTS) $(LOCK)
	@$(PYTHON) -c '' 2>/dev/null || { echo "error: $(PYTHON) does not run;" \
		"install Python 3.11, 3.12 or 3.13, or name one: PYTHON=python3.12 make" >&2; exit 2; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "error: $(PYTHON) is Python $(PYTHON_VERSION);" \
		"3.11, 3.12 or 3.13 is needed: PYTHON=python3.12 make" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make" \
		"environments; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	@echo "Installing into $(VENV) (about 2 GB, some minutes the first time)"
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) $(REQUIREMENTS:%=-r %)
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.txt
	$(INSTALL) $(REQUIREMENTS:%=-r %) -r requirements-dev.txt
	@touch $@
