# Two commands: `make repro` and `make test`. Each installs what it needs into $(VENV) first.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(abspath $(VENV))/bin
LOCK := .venv-lock
STAMP := $(VENV)/.installed-$(shell cksum requirements.txt | cut -d' ' -f1)
RUN := PATH="$(BIN):$$PATH" DVC_NO_ANALYTICS=1

.PHONY: help install repro test test-fast test-slow lint types lock check

help:
	@echo "make repro   install, then run the whole pipeline on the embedded sample"
	@echo "make test    install, then run the test suite in two processes; WORKERS=4 in four, WORKERS=0 in one"
	@echo "make test-fast  the tests of single parts, in under ninety seconds"
	@echo "make check   install, then lint, types and tests, as .ci/run does"
	@echo "make lock    resolve pyproject.toml into requirements.txt, every version pinned; UPGRADE=1 takes the newest"
	@echo "VENV=DIR     reuse a virtual environment instead of .venv"

install: $(STAMP)

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "W-CLIP KD needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Pass PYTHON=/path/to/python3.11."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "Making a virtual environment in $(VENV) failed: on Debian and Ubuntu, apt install python3-venv."; exit 1; }
	@echo "installing into $(VENV) (about two minutes and 6 GB the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@rm -f $(VENV)/.installed-* && touch $@

repro: install
	@$(RUN) dvc repro
	@$(RUN) python cli.py results

test: install
	@$(RUN) python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The inner loop: the library and the parts of the product, and who may import whom. Left out: what runs stages, commands
# and exports (the folders below) and the tests marked `process`.
FAST := $(filter-out $(addprefix tests/,benchmarks/ commands/ contract/ deployment/ factories/ stages/),$(wildcard tests/*/))

test-fast: install
	@$(RUN) python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not process" $(FAST) tests/contract/test_architecture.py

test-slow: install
	@$(RUN) python -m pytest -m "slow or not slow"

lint: install
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

types: install
	@$(RUN) mypy

# Keeps the versions that requirements.txt has as far as pyproject.toml allows; UPGRADE=1 takes the newest ones.
lock:
	@test -x $(LOCK)/bin/uv || { $(PYTHON) -m venv $(LOCK) && $(LOCK)/bin/pip install --quiet uv; }
	@$(LOCK)/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header \
	  $(if $(UPGRADE),--upgrade) --output-file requirements.txt pyproject.toml

check: lint types test
