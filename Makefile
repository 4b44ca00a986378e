# make demo: a sentence becomes a video, from nothing but Python.   make test: the whole suite.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
# The version we test with; the build without CUDA where pip can see one (2 GB less to download).
TORCH ?= 2.13.0
PROMPT ?= a red circle moves to the right over a dark background
OUT ?= out/demo.mp4
TESTS ?= tests

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --constraint constraints.txt

.PHONY: demo test lint format

demo: $(VENV)/runtime.stamp
	$(BIN)/python -m wan_core generate "$(PROMPT)" --out "$(OUT)"

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/test.stamp
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(VENV)/test.stamp
	$(BIN)/python -m ruff format .

$(VENV)/runtime.stamp: requirements.txt constraints.txt
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq "torch==$(TORCH)+cpu" 2>/dev/null || $(PIP) "torch==$(TORCH)"
	$(PIP) --requirement requirements.txt
	@touch $@

$(VENV)/test.stamp: $(VENV)/runtime.stamp tests/requirements.txt
	$(PIP) --requirement tests/requirements.txt
	@touch $@
