# Everything runs from .venv/, which `make setup` makes from uv.lock. uv itself goes to .tools/.
SHELL := /bin/bash
UV := .tools/uv
STAMP := .venv/.synced
# uv takes a Python 3.10 from the PATH, pyenv's here even where no shim is on it, and downloads one where there is none.
export PATH := $(PATH)$(addprefix :,$(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin)))

.PHONY: help setup run test lint format bench clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## uv, Python 3.10 and the locked dependencies

$(UV): .ci/get_uv.py
	python3 .ci/get_uv.py $(UV)

$(STAMP): $(UV) pyproject.toml uv.lock .python-version
	$(UV) sync --frozen --system-certs --extra kubeflow
	@touch $@

run: setup  ## image classification on the sample, end to end
	.venv/bin/deepline run image_classification

# One worker more than there are processors: tests wait for servers and other processes that they start.
WORKERS := $(shell n=$$(nproc); echo $$(( n < 4 ? n + 1 : 5 )))

test: setup  ## all tests
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup  ## ruff's checks
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: setup  ## ruff's formatter
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: setup  ## the measurements behind README.md's table
	.venv/bin/python tests/benchmarks/run.py

clean:  ## removes environments, runs and caches
	rm -rf .venv .tools runs .pytest_cache .ruff_cache
