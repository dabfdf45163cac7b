# Each target below does its own set-up, once, in .venv: a fresh machine needs Python >= 3.11 and make, no more.
#   make demo    trace a prompt through the small model that ships with the package
#   make test    every test
#   make check   a little over a minute on two cores: format, lint, types, layers, fast tests
#   make docs    build the documentation into site/
#   make examples  write down what docs/examples print, for the documentation and the README to show
# Use PYTHON=... to choose the interpreter that .venv is made from.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
BIN := .venv/bin

# The machine's own python3 goes first: it is the one that packages are most likely to be built for. A candidate has
# to run, because version managers leave launchers behind for interpreters that are switched off.
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.11 python3.12 python3.13)
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

.PHONY: help demo test check docs examples clean
help:
	@sed -n '2,6s/^#   //p' Makefile

demo: .venv/.installed
	$(BIN)/tl-circuits demo

test: .venv/.installed-dev .venv/.installed-browser
	$(BIN)/pytest -n 2 --hypothesis-profile=ci

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@# Types are checked on one core while tests run on the other.
	@$(BIN)/pyright --pythonpath $(BIN)/python & types=$$!; \
	  $(BIN)/pytest -q -n 2 -m "not slow" --hypothesis-profile=quick; tests=$$?; \
	  wait $$types && exit $$tests

docs: .venv/.installed-dev
	$(BIN)/zensical build --clean --strict

examples: .venv/.installed-dev
	@for example in docs/examples/*.py; do echo "$$example"; $(BIN)/python "$$example" > "$${example%.py}.txt"; done
	@$(BIN)/python tests/test_docs.py

.venv/.made:
	@set -e; for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c "$(SUITABLE)" >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "No usable Python >= 3.11 among: $(CANDIDATES). It needs the venv module (python3-venv on Debian)." >&2; \
	  echo "Install one, or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; \
	fi; \
	echo "set-up: a virtual environment in .venv, from $$("$$found" --version)"; \
	"$$found" -m venv .venv; touch $@

# torch goes first and pinned, so that pip takes a CPU build wherever it can find one.
.venv/.installed: .venv/.made pyproject.toml constraints.txt
	@echo "set-up: installing torch, then tl-circuits and what it needs, pinned by constraints.txt (once; minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "set-up: installing the tools for tests and documentation (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[dev,docs,plot,serve,widget]'
	@touch $@

# The page is tested in the system's Chromium, and rebuilt with npm. Where they are missing and may not be installed, those
# tests say so and skip.
.venv/.installed-browser: tl_circuits/page/viewer/package-lock.json | .venv/.installed-dev
	@if ! command -v chromium chromium-browser google-chrome >/dev/null && [ "$$(id -u)" = 0 ] \
	    && command -v apt-get >/dev/null; then \
	  echo "set-up: installing Chromium for the tests of the page (once)"; \
	  { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1 || echo "set-up: no Chromium to be had"; \
	fi
	@if command -v npm >/dev/null; then \
	  echo "set-up: installing what the page's viewer is built from (once)"; \
	  npm ci --silent --prefix tl_circuits/page/viewer || echo "set-up: npm could not install it"; \
	fi
	@touch $@

clean:
	rm -rf .venv .cache build dist site
