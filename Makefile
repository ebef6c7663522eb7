# `make help` lists the targets. Settings, given as `NAME=value make test`:
#   PYTHON=python3.12             the interpreter to build the environment from (3.11, 3.12, 3.13)
#   ACCELERATOR=cuda13            also install requirements-cuda13.txt (or cuda12, tpu)
#   TEST_PROCESSES=8              how many processes share the tests
#   LOCK=requirements-lowest.lock install the oldest versions allowed; LOCK= installs the newest

ACCELERATOR ?=
LOCK ?= requirements.lock
VENV ?= .venv
DEMO_WORKDIR ?= runs/demo
TEST_PROCESSES ?= 2

# Memory in huge pages, where glibc is the C library: a training step on CPUs takes less time.
GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
export GLIBC_TUNABLES

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.12 python3.13 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && { echo $$python; exit; }; done; echo python3)
endif
PYTHON_VERSION := $(shell $(PYTHON) -c \
	'import platform; print(platform.python_version())' 2>/dev/null)

# One empty file for each set of packages in the environment. Its name holds the settings that the
# environment was made with, so that changing one of them makes it anew.
INSTALLED := $(VENV)/.installed-$(subst $() ,-,$(strip $(PYTHON_VERSION) $(ACCELERATOR) $(LOCK)))
INSTALLED_DEV := $(INSTALLED)-dev
REQUIREMENTS := requirements.txt $(ACCELERATOR:%=requirements-%.txt)
VENV_PYTHON := $(VENV)/bin/python
INSTALL := $(VENV_PYTHON) -m pip install --disable-pip-version-check $(LOCK:%=-c %)

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: $(INSTALLED) ## Train, evaluate and report on the pictures in this repository
	$(VENV_PYTHON) -m oner_jax.train --config=configs/oner.py:demo --workdir=$(DEMO_WORKDIR)
	$(VENV_PYTHON) -m oner_jax.evaluate --workdir=$(DEMO_WORKDIR)
	@echo "The report: $(abspath $(DEMO_WORKDIR))/report/index.html"

# A test that hangs ends with the stacks of all threads, and the others go on.
TEST_OPTIONS := --numprocesses=$(TEST_PROCESSES) --dist=loadscope \
	-o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

# The linters judge by the types of the locked set; another set only has to run.
.PHONY: test
test: $(INSTALLED_DEV) $(if $(filter requirements.lock,$(LOCK)),lint) ## Run linters and fast tests
	$(VENV_PYTHON) -m pytest $(TEST_OPTIONS)

.PHONY: test-slow
test-slow: $(INSTALLED_DEV) ## Run the tests that take a minute or more
	$(VENV_PYTHON) -m pytest -m slow

.PHONY: test-soak
test-soak: $(INSTALLED_DEV) ## Run the tests that look for leaks and drifts over many minutes
	$(VENV_PYTHON) -m pytest -m soak -rP

# Beam holds back other packages, so it has an environment of its own, without the lock.
.PHONY: test-beam
test-beam: ## Run the tests of ingestion under Apache Beam, in an environment of its own
	test -x .venv-beam/bin/pytest || { $(PYTHON) -m venv --clear .venv-beam && \
		.venv-beam/bin/python -m pip install --disable-pip-version-check $(REQUIREMENTS:%=-r %) \
		-r requirements-dev.txt -r requirements-beam.txt; }
	.venv-beam/bin/python -m pytest tests/test_ingest_beam.py

# What jax2onnx needs holds back Orbax, so it has an environment of its own, without the lock.
.PHONY: test-extras
test-extras: ## Run the tests of ONNX, FAISS and the page, in an environment of its own
	test -x .venv-extras/bin/pytest || { $(PYTHON) -m venv --clear .venv-extras && \
		.venv-extras/bin/python -m pip install --disable-pip-version-check $(REQUIREMENTS:%=-r %) \
		-r requirements-dev.txt -r requirements-onnx.txt -r requirements-search.txt \
		-r requirements-page.txt -r requirements-page-dev.txt; }
	.venv-extras/bin/python -m pytest tests/exporting tests/indexing -k "onnx or faiss"
	.venv-extras/bin/python -m pytest tests/page -m ""

.PHONY: lint
lint: $(INSTALLED_DEV) ## Check style, formatting, types and, to be told of, vulnerabilities
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/shellcheck --external-sources launch/*.sh launch/*.sbatch
	-@$(MAKE) --no-print-directory audit

# pip-audit asks pypi.org, which a closed network does not let through.
REACHABLE := import urllib.request; urllib.request.urlopen('https://pypi.org/pypi/pip/json', timeout=5)
.PHONY: audit
audit: $(INSTALLED_DEV) ## Look up known vulnerabilities of the locked packages
	@if ! $(VENV_PYTHON) -c "$(REACHABLE)" 2>/dev/null; then \
		echo "audit: skipped, because pypi.org cannot be reached"; \
	else \
		$(INSTALL) --quiet "pip-audit>=2.9,<3" && \
		$(VENV_PYTHON) -m pip_audit --requirement requirements.lock --no-deps --disable-pip; \
	fi

.PHONY: format
format: $(INSTALLED_DEV) ## Format the code and repair what the linter can repair by itself
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: venv
venv: $(INSTALLED_DEV) ## Make or refresh the environment in .venv

COMPILE := uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-emit-index-url \
	--custom-compile-command "make lock" requirements.txt requirements-dev.txt

.PHONY: lock
lock: $(INSTALLED_DEV) ## Resolve both lock files anew, for every supported Python at once
	$(VENV_PYTHON) -m pip install --quiet "uv>=0.9,<1"
	$(VENV)/bin/$(COMPILE) --output-file requirements.lock
	$(VENV)/bin/$(COMPILE) --resolution lowest-direct --output-file requirements-lowest.lock

.PHONY: clean
clean: ## Remove the environment and all caches (keeps runs/)
	rm -rf $(VENV) .venv-beam .venv-extras .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info

$(INSTALLED): $(REQUIREMENTS) $(LOCK)
	@$(PYTHON) -c '' 2>/dev/null || { echo "error: $(PYTHON) does not run; install" \
		"Python 3.11, 3.12 or 3.13, or name one: PYTHON=python3.12 make ..." >&2; exit 2; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "error: $(PYTHON) is Python $(PYTHON_VERSION), but" \
		"3.11, 3.12 or 3.13 is needed; name one: PYTHON=python3.12 make ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "error: $(PYTHON) cannot make" \
		"environments; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	@echo "Installing into $(VENV): 2.7 GB of disk, some minutes the first time"
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) $(REQUIREMENTS:%=-r %)
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.txt
	$(INSTALL) $(REQUIREMENTS:%=-r %) -r requirements-dev.txt
	@touch $@
