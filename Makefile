# Every target sets itself up; nothing but Python, GNU patch and make must be there before.
PYTHON ?= python3
RECIPE ?= qwen3.6-27b-fp8-vocab
PROFILE ?=
VENV := .venv
BUILDER := $(VENV)/bin/builder
SETUP := $(VENV)/.setup
DEV := $(VENV)/.dev
TESTS ?= tests
# Many tests wait for servers that stall on purpose: one more worker than this has cores.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: profile-is-named help setup setup-dev demo demo-serve build check lock test test-engine lint bench bench-peers publish run clean

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  RECIPE=$(RECIPE)  a name under images/ or a path; for build, check, lock, publish, run"
	@echo "  PROFILE=NAME  for run"

setup: $(SETUP) ## Make .venv with the builder command

setup-dev: $(DEV) ## Add what tests, linters and benchmarks need

$(SETUP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' \
		|| { echo "error: $(PYTHON) is not Python 3.11 to 3.13; name one with: make PYTHON=python3.12" >&2; exit 2; }
	@echo "Setting up $(VENV): downloads about 40 packages the first time" >&2
	@echo "  1 of 3: a virtual environment of $(PYTHON)" >&2
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "  2 of 3: what the builder needs, each package by its hash" >&2
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "  3 of 3: the builder itself" >&2
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock $(SETUP)
	@echo "Adding what tests and linters need to $(VENV): about 150 packages the first time" >&2
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(SETUP) ## Build a patched vLLM image with no Docker, no GitHub and no GPU
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh docs/demo.sh

demo-serve: $(SETUP) ## Serve a tiny model with the real vLLM in a patched image, without a GPU
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" PYTHONPATH="$(CURDIR)" sh docs/demo-serve.sh

build: $(SETUP) ## Build RECIPE: with Docker when a daemon responds, else as an OCI layout in dist/
	@$(BUILDER) build $(RECIPE)

check: $(SETUP) ## Apply RECIPE's overlays to the base's real files and lint its profiles; build nothing
	@$(BUILDER) check $(RECIPE)

lock: $(SETUP) ## Resolve RECIPE and write its lock and vendored diffs
	@$(BUILDER) lock $(RECIPE)

test: $(DEV) ## Run all tests but those of the real engine
	@$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q -m "not engine" --durations=25 $(TESTS)

test-engine: $(DEV) ## Run the tests of the real vLLM on the CPU: one process, since each engine is started once
	@$(VENV)/bin/python -m pytest -n 0 -q -m engine --durations=10 tests/engine

lint: $(DEV) ## Run ruff, mypy and the import contract
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache

bench: $(DEV) ## Measure speed side by side with peers, as ratios
	@$(VENV)/bin/python -m bench

bench-peers: $(DEV) ## Install the peers that PyPI has, for `make bench`
	@$(VENV)/bin/python -m bench.peers

publish: $(SETUP) ## Build RECIPE and push it, with tags and evidence
	@$(BUILDER) publish $(RECIPE)

# Checked before the set-up, which takes a while.
profile-is-named:
	@test -n "$(PROFILE)" || { echo "error: name a profile: make run PROFILE=smoke" >&2; exit 2; }

run: profile-is-named | $(SETUP) ## Run RECIPE's image with PROFILE
	@$(BUILDER) run $(RECIPE) $(PROFILE)

clean: ## Remove .venv and dist
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
