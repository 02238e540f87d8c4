# One command each, the same here and in CI. `make help` lists them.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# DVC runs each stage as `python -m stages.<name>`, with whatever python comes first on PATH.
export PATH := $(BIN):$(PATH)
unexport PYTHONPATH PYTHONDONTWRITEBYTECODE VIRTUAL_ENV
# Nothing here phones home: neither DVC and uv, nor (pipelines/environment.py) what the stages import.
export DVC_NO_ANALYTICS := 1
export UV_NO_PROGRESS := 1
# A thread per process: libgomp's spin barriers make two busy cores ten times slower than one.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help install lock lint test test-all repro rollback zoo bench serve ui clean
help:           ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## create .venv from requirements.lock (exact versions, checked hashes)

# The lock holds uv too, so the one package that pip has to fetch is hash-checked like the rest.
$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "maskline needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1): set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv support: install it (on Debian and Ubuntu: apt-get install python3-venv) or set PYTHON" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	@$(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@touch $@

lock: $(VENV)/.installed     ## resolve pyproject.toml into requirements.lock again
	@env -u UV_INDEX_URL -u UV_DEFAULT_INDEX $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --extra dev \
	  --custom-compile-command "make lock" $(LOCK_FLAGS) pyproject.toml -o requirements.lock
	@echo 'ray[default]' | env -u UV_INDEX_URL -u UV_DEFAULT_INDEX $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	  -c requirements.lock --custom-compile-command "make lock" $(LOCK_FLAGS) - -o deploy/requirements.lock

lint: install   ## style, types, import contracts
	@ruff check . && ruff format --check . && mypy && lint-imports --no-cache

TEST_PROCESSES ?= 2
test: install   ## everything that is quick: under 15 minutes on two cores (TEST_PROCESSES=1 to see it in order)
	@python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-all: install  ## the slow ones too
	@python -m pytest -m ''

repro: install  ## from raw data to a registered model: runs what has changed
	@dvc repro

rollback: install  ## give `champion` back to the version before: make rollback WHY="..." (TO=3: to an earlier one)
	@python -m stages.rollback --why "$$WHY" $(if $(TO),--to "$$TO")

zoo: install    ## train the models of zoo.yaml on one dataset, and rank them: results/zoo/leaderboard.html
	@python -m pipelines.leaderboard zoo.yaml

bench: install  ## measure, and print tables
	@for b in benchmarks/*.py; do python $$b || exit 1; done

serve: install  ## answer requests with the champion, and show a page: http://127.0.0.1:8000 (serve in params.yaml)
	@exec python -m stages.serve

PORT ?= 5000
ui: install     ## MLflow's pages on http://127.0.0.1:5000 (or PORT=...): runs and the registry
	@python -c 'import socket, sys; sys.exit(socket.socket().connect_ex(("127.0.0.1", $(PORT))) == 0)' \
	  || { echo "port $(PORT) is in use: make ui PORT=5001" >&2; exit 1; }
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
	  mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 --no-serve-artifacts \
	  --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --default-artifact-root file://$(CURDIR)/mlartifacts

clean:          ## drop results, runs and caches; keeps .venv, the registry and DVC's cache
	@rm -rf results runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find stages pipelines tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
