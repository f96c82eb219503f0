# Verbs of bigpeft. Everything runs in .venv, which `make setup` makes.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
WORKERS ?= 2
MODEL := models/smollm2-135m-instruct
RANKS ?= $(shell test "$$(nvidia-smi -L 2>/dev/null | wc -l)" = 1 && echo 1 || echo 2)

.PHONY: setup quickstart test check faults bench clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bigpeft needs Python 3.11 or newer: make PYTHON=python3.11 setup"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

quickstart: setup
	bigpeft fetch smollm2-135m-instruct $(MODEL)
	rm -rf runs/quickstart
	deepspeed --num_gpus $(RANKS) launch/train.py --recipe recipes/quickstart.yaml

check: setup
	ruff check .
	ruff format --check .
	lint-imports
	pyright
	codespell

test: check
	OMP_NUM_THREADS=1 pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

faults: setup
	pytest -m 'long or not long' tests/faults

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/packing.py
	bigpeft fetch smollm2-135m-instruct $(MODEL)
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/learn.py --again

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
