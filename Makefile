# Every verb sets up what it needs; `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/python -m uv
unexport PYTHONDONTWRITEBYTECODE # a turn starts several processes; compiling each time costs seconds
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
.DEFAULT_GOAL := help
.PHONY: help run test crash lint type bench peers servers serving mlflow docs lock format clean mutate

help: ## list the verbs
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(BIN)/uv: requirements-uv.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $(BIN)/uv

# `run` needs less than `test`; whoever has the larger set keeps it.
$(VENV)/run.stamp: $(BIN)/uv requirements.lock pyproject.toml
	@test -e $(VENV)/dev.stamp || { $(UV) pip sync --quiet --require-hashes requirements.lock && \
	  $(UV) pip install --quiet --no-deps --editable . ; }
	@touch $@

$(VENV)/dev.stamp: $(BIN)/uv requirements-dev.lock pyproject.toml
	$(UV) pip sync --quiet --require-hashes requirements-dev.lock
	$(UV) pip install --quiet --no-deps --editable .
	@touch $@ $(VENV)/run.stamp

# An old MLflow server lives apart: its libraries are older than ours. It needs Python 3.11; elsewhere its tests skip.
$(VENV)/mlflow-oldest.stamp: $(BIN)/uv requirements-mlflow-oldest.lock
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
	  $(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/mlflow-oldest && \
	  $(UV) pip sync --quiet --require-hashes --python $(VENV)/mlflow-oldest/bin/python requirements-mlflow-oldest.lock; fi
	@touch $@

# The Open Inference Protocol as OpenAPI, for the tests: a file in MLServer's wheel, which needs nothing that MLServer does.
$(VENV)/oip.stamp: $(BIN)/uv requirements-oip.lock
	rm -rf $(VENV)/oip
	$(UV) pip install --quiet --no-deps --require-hashes --python-version 3.11 --target $(VENV)/oip -r requirements-oip.lock
	@touch $@

mlflow: $(VENV)/mlflow-oldest.stamp ## the oldest MLflow server that the mirror is tested with

run: $(VENV)/run.stamp ## the loop on real input: examples/quality, slot after slot
	@$(BIN)/python examples/quality/story.py

test: $(VENV)/dev.stamp $(VENV)/mlflow-oldest.stamp $(VENV)/oip.stamp ## all tests, with coverage
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered

crash: $(VENV)/dev.stamp ## kill -9, failing disk and power cut at every system call of a turn, and a failing network at every request
	CRASH_ALL=1 $(BIN)/python -m pytest -q -rP tests/e2e/test_syscalls.py
	TESTS_FAULTS=all $(BIN)/python -m pytest -q -rP -n 2 tests/e2e/test_faults.py tests/store/test_table_files.py

lint: $(VENV)/dev.stamp ## style, types, layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/make_docs.py --check

$(VENV)-mutate/stamp: $(BIN)/uv requirements-dev.lock requirements-mutate.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)-mutate
	$(UV) pip install --quiet --python $(VENV)-mutate/bin/python --require-hashes -r requirements-dev.lock -r requirements-mutate.lock
	$(UV) pip install --quiet --python $(VENV)-mutate/bin/python --no-deps --editable .
	@touch $@

mutate: $(VENV)-mutate/stamp ## mutation testing of the pure modules (MODULES="gate split": some of them; minutes)
	@$(VENV)-mutate/bin/python tools/mutate.py $(MODULES)

type: $(VENV)/dev.stamp ## types only
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp ## the figures of docs/benchmarks.md (minutes)
	$(BIN)/python bench/turn.py
	$(BIN)/python bench/resample.py
	$(BIN)/python bench/decisions.py
	$(BIN)/python bench/consistency.py
	$(BIN)/python bench/batch.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/forms.py
	$(BIN)/python bench/ledger.py
	$(BIN)/python bench/ingest.py
	$(BIN)/python bench/tune.py

# What others would use lives apart: its dependencies are not ours.
$(VENV)/peers.stamp: $(VENV)/dev.stamp requirements-peers.lock
	$(PYTHON) -m venv $(VENV)/peers
	$(UV) pip sync --quiet --require-hashes --python $(VENV)/peers/bin/python requirements-peers.lock
	@touch $@

peers: $(VENV)/peers.stamp ## side by side with joblib, Dask, Spark, Metaflow, Dagster and MLflow (half an hour)
	$(BIN)/python bench/batch.py --model linear --peers whole,chunked,joblib,dask,spark
	$(BIN)/python bench/batch.py --model trees --peers whole,chunked,joblib,dask,spark
	$(BIN)/python bench/stages/run.py

$(VENV)/peers-%.stamp: $(VENV)/dev.stamp requirements-peers-%.lock
	$(PYTHON) -m venv $(VENV)/peers-$*
	$(UV) pip sync --quiet --require-hashes --python $(VENV)/peers-$*/bin/python requirements-peers-$*.lock
	@touch $@

servers: $(VENV)/peers-services.stamp $(VENV)/peers-mlserver.stamp ## set up the servers that serving is compared with

# Each keeps what it found: run it again to go on. They need wrk, gcc and nginx.
serving: servers ## the figures of serving, and its endurance (hours)
	$(BIN)/python bench/serve/one.py
	$(BIN)/python bench/serve/parts.py
	$(BIN)/python bench/serve/many.py
	$(BIN)/python bench/serve/native.py
	$(BIN)/python bench/serve/safe.py
	$(BIN)/python bench/serve/swaps.py
	$(BIN)/python bench/serve/overload.py
	$(BIN)/python bench/serve/years.py

docs: $(VENV)/dev.stamp ## generate the reference pages from the code
	$(BIN)/python tools/make_docs.py

lock: $(BIN)/uv ## lock the newest allowed versions, with hashes
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --extra s3 --extra examples --extra serve pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate $(foreach extra,examples lineage load mlflow notebook oidc onnx postgres s3 serve telemetry tune dev,--extra $(extra)) pyproject.toml -o requirements-dev.lock
	echo 'mutmut>=3.8' | $(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --constraint requirements-dev.lock --python-version 3.11 - -o requirements-mutate.lock
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate -c requirements-dev.lock bench/peers.in -o requirements-peers.lock
	$(foreach which,services mlserver,$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --python-version 3.11 bench/serve/peers/$(which).in -o requirements-peers-$(which).lock &&) true
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --override requirements-mlflow-oldest.override requirements-mlflow-oldest.in -o requirements-mlflow-oldest.lock
	echo mlserver | $(UV) pip compile --quiet --upgrade --no-deps --universal --generate-hashes --no-header --no-annotate --python-version 3.11 - -o requirements-oip.lock
	echo uv | $(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --python-version 3.11 - -o requirements-uv.lock

clean: ## remove what was set up here
	rm -rf $(VENV) $(VENV)-mutate .mypy_cache .ruff_cache .pytest_cache .hypothesis
