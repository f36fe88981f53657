# What a developer types. `make` alone lists it.

PYTHON ?= python3
EXTRAS ?= dev
ARGS   ?=

VENV := .venv
PY   := $(VENV)/bin/python
# One stamp per set of extras: asking for more installs more, changing a requirement reinstalls.
STAMP := $(VENV)/.installed-$(or $(EXTRAS),base)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint type check bench bench-gpu experiments docs build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@echo "Variables: PYTHON=$(PYTHON)  EXTRAS=$(EXTRAS) (of dev,docs,wandb,board,deepspeed; or empty)  ARGS= (for pytest and the benchmark)"

setup: $(STAMP) ## create .venv and install mmsafe into it, editable, with the tested versions

# It needs no extras: it takes what is installed, and else the least.
demo: $(or $(firstword $(wildcard $(VENV)/.installed-*)),$(VENV)/.installed-base) ## the whole method in a few minutes on a CPU
	$(PY) -m mmsafe.demo

test: setup ## the test suite; ARGS="-m slow" for the slow part
	$(PY) -m pytest $(ARGS)

lint: setup ## ruff: rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

type: setup ## mypy, strict
	$(PY) -m mypy

check: lint type test ## everything a change has to pass

bench: setup ## packed against padded scoring; benchmarks/ has more
	$(PY) -m benchmarks.scoring $(ARGS)

bench-gpu: setup ## steps of a 7B beside TRL's on one GPU, 25 minutes; ARGS="--toy": on a CPU
	$(PY) -m benchmarks.gpu --all $(ARGS)

# Run by run, in the order of their names. A finished run is left alone, so a second call takes seconds.
BOOK := $(sort $(wildcard experiments/*/run.sh))
.PHONY: $(BOOK)
experiments: $(BOOK) ## re-run the lab book, hours of CPU, and put the results into its pages; JOBS=2: two at a time
$(BOOK): setup
	PYTHON=$(PY) bash $@

docs: ## the documentation as a site, into site/; python3 -m http.server -d site: to look at it
	@$(MAKE) --no-print-directory setup EXTRAS=$(EXTRAS),docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict   # with --quiet it would pass over warnings

build: setup ## source distribution and wheel into dist/
	rm -rf dist
	$(PY) -m build

clean: ## remove what tools and builds left; runs and .venv stay
	rm -rf dist build site .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find mmsafe tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# A .venv whose Python does not run or is too old is made anew.
OLD := import sys; sys.exit(sys.version_info < (3, 11))
HINT := Install Python 3.11 or newer and name it: make setup PYTHON=python3.12
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@$(PY) -c '$(OLD)' 2>/dev/null || { \
	  command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' here. $(HINT)" >&2; exit 1; }; \
	  $(PYTHON) -c '$(OLD)' || { echo "mmsafe needs Python 3.11; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). $(HINT)" >&2; exit 1; }; \
	  echo "$(PYTHON) -m venv $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@$(PY) -c 'import pip' 2>/dev/null || $(PY) -m ensurepip
	@echo "Installing mmsafe ($*): a few minutes the first time, PyTorch is large."
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.$(if $(filter-out base,$*),[$*])'
	@touch $@
