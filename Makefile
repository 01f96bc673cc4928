PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: setup demo test test-slow lint check bench docs clean

setup: $(READY)

# torch first and by itself: on a machine without a GPU this is the CPU build; later installs keep it.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $(READY)

demo: setup
	$(BIN)/kshot demo

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

check: lint test

bench: setup
	$(BIN)/kshot bench scoring --json

docs: setup
	$(BIN)/python docs/make_pages.py

clean:
	rm -rf $(VENV)
