# Everything a developer or user types. `make` alone prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV ?= $(or $(shell command -v uv),.tools/bin/uv)
PY := .venv/bin/python
export UV
export PYTHONPATH := tests
# Tests start hundreds of Python processes: each would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE
# Processes that share the tests; `make test WORKERS=0` runs them in one.
WORKERS ?= auto
# A folder of wheels, where one is given, is an extra source for torch (its CPU build is small); never a need.
export UV_FIND_LINKS := $(PIP_FIND_LINKS)

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready ## train, serve on torch and Triton, scale under load: on a real cluster, with a result to check
	@$(PY) -m demo

test: .venv/ready ## every test; what this machine cannot run is said loudly at the end
	@$(PY) -m pytest tests -n $(WORKERS)

test-fast: .venv/ready ## the tests that need no cluster
	@$(PY) -m pytest tests -m "not api and not e2e" -n $(WORKERS)

lint: .venv/ready ## ruff, mypy strict, import layers
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && PYTHONPATH=operator:images/torch .venv/bin/lint-imports --no-logo

crds: .venv/ready ## write crds/*.yaml from the pydantic models
	@.venv/bin/moorage crds --output crds

record: .venv/ready ## at a release: write what the operator makes as the last release's children (or of CASES= only)
	@$(PY) -m support.recorded $(CASES)

bench-operator: .venv/ready ## 1,000 resources (BENCH_N; BENCH_PODS=0) made, changed, restarted over, deleted
	@$(PY) -m bench.operator $(BENCH_N)

bench-server: .venv/ready ## the torch server on one core: requests, latency, CPU, memory, against two limits and other servers
	@PYTHONPATH=images/torch:tests $(PY) -m bench.server

bench-repository: .venv/ready ## many small models in one torch server, against one model in a server like it
	@PYTHONPATH=images/torch:tests $(PY) -m bench.repository

soak: .venv/ready ## an hour (SOAK_MINUTES) of steady change: nothing may grow, nothing may be left
	@$(PY) -m bench.soak

docs: .venv/ready ## write the tables of docs/operations.md that are made from code, alerts and benchmarks
	@PYTHONPATH=operator:tests $(PY) -m reference

cluster-up: .venv/ready ## bring the cluster up (harmless when it is)
	@$(PY) -m cluster up

cluster-down: .venv/ready ## take it down and leave nothing behind
	@$(PY) -m cluster down

cluster-status: .venv/ready ## what runs
	@$(PY) -m cluster status

.tools/bin/uv:
	@python3 -m venv .tools && .tools/bin/pip install -q uv==0.13.9

# torch stands outside the lock, so that the CPU build of a wheel folder may take its place.
.venv/ready: pyproject.toml uv.lock $(filter .tools/bin/uv,$(UV))
	@echo "setting up .venv"
	@test -x $(PY) || $(UV) venv -q .venv
	@$(UV) export -q --frozen --all-extras --prune torch --no-emit-project -o .venv/requirements.txt
	@VIRTUAL_ENV=.venv $(UV) pip install -q --compile-bytecode -r .venv/requirements.txt torch==2.13.0
	@VIRTUAL_ENV=.venv $(UV) pip install -q --no-deps -e .
	@touch $@

.PHONY: help demo test test-fast lint crds docs record bench-operator bench-server bench-repository soak cluster-up cluster-down cluster-status
