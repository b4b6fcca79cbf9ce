# make demo   the main job on embedded data, in an environment of its own
# make test   every test, with what they need
# make lint   ruff and mypy
# make bench  how long all attention maps take

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

.PHONY: help demo test lint format bench clean chromium

help:
	@sed -n 's/^# make/make/p' Makefile

# Debian splits venv off python3; where it is missing and apt can be used, it is installed.
.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "vaelens needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv 2>/dev/null \
	  || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y python3-venv && $(PYTHON) -m venv --clear .venv; }
	@touch $@

.venv/core: .venv/made pyproject.toml constraints.txt
	@echo "installing vaelens into .venv"
	@$(PIP) --editable .
	@touch $@

.venv/dev: .venv/core
	@echo "installing what tests and checks need"
	@$(PIP) --editable '.[dev,bench]'
	@touch $@

# The tests of the report click through it in a real browser.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { echo "installing chromium"; $(SUDO) apt-get update -qq && \
	       $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
	  || echo "no chromium could be installed: the browser tests skip" >&2

demo: .venv/core
	@$(BIN)/vaelens demo --out demo

test: .venv/dev chromium
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(PYTEST)

lint: .venv/dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: .venv/dev
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: .venv/dev
	@$(BIN)/python benchmarks/attention.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
