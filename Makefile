# Each target makes the virtual environment it needs; nothing but Python (>= 3.11) and make has to be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# each takes about 2 GB
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint types check docs bench gpu faults studies clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(READY) ## create the virtual environment and install featbank with its development tools

# torch comes in through torchvision, so that both are from the same build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("featbank needs Python 3.11 or later, this is " + sys.version.split()[0] + "; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@echo "installing into $(VENV): some minutes, 7 GB on disk, most of it torch"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	touch $(READY)

demo: $(READY)   ## digits through minivgg at five cuts: the table and the accuracy-vs-samples curve, no network
	$(BIN)/featbank demo

# one thread: thousands of small operations gain nothing from more, and lose much on a busy machine;
# on the CPU, also where there is a card: `make gpu` is for that
PYTEST := OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -q -n $(TEST_PROCESSES)

test: $(READY)   ## the tests that take about a second at most, and the doctests; four minutes
	$(PYTEST) -m "not slow"

test-all: $(READY) ## all tests, as CI runs them; a quarter of an hour
	$(PYTEST)

lint: $(READY)   ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

check: lint types test-all ## everything CI runs

# offline: nothing is fetched at the build or by the pages; five minutes on two cores at most
docs: $(READY)   ## the site, into build/docs: reference, gallery and pages; warnings are errors
	OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= $(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

bench: $(READY)  ## the benchmarks, by hand: minutes, and only ratios within one run mean anything
	$(BIN)/python -m pytest -q -s tests/benchmarks

# the machine's own Python: a bare machine with a card has torch, and installs nothing
gpu:             ## on a machine with a GPU: correctness, ceilings, rates, a table; seven minutes at most
	PYTHONPATH=. $(PYTHON) tests/gpu --out $(or $(OUT),build/gpu)

faults: $(READY) ## the fault bench in full: kills, power loss, full disks, flipped bits; within an hour
	nice -n 10 $(BIN)/python tests/faults

studies: $(READY) ## every study: those of the reports on synthetic data of their size, mini_* on real images; half an hour
	OMP_NUM_THREADS=1 FEATBANK_STUDIES=full nice -n 10 $(BIN)/python -m pytest -q --durations=0 tests/pipeline/test_studies.py

clean:           ## remove the virtual environment and tool caches; banks and runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
