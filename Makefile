# Everything here needs only make and Python 3.11 or newer; the first target that needs packages creates .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS_VENV := .venv-clients
CLIENTS := $(CLIENTS_VENV)/.done tests/clients/node/node_modules/.package-lock.json
# Extra arguments for pytest: make test ARGS="tests/pipelines -x"
ARGS ?=
BENCHMARKS ?= engine_vs_diffusers edit_batching pipeline_overhead scale gpu.gpu_latency gpu.precision_quality coserving scheduling.mixed_load scheduling.mixed_sizes scheduling.queue_prediction online_overhead rank_loss command_line quality_modes gpu.memory_modes gpu.sharded_load simulation.simulate_cluster

.DEFAULT_GOAL := help
.PHONY: help install demo test clients soak bench gpu lint docs format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.dev ## Create .venv with the package and the tools that tests and lint need

demo: $(VENV)/.run ## Make the example table's images into out/demo (run it again to continue where it stopped)
	$(BIN)/zimage generate examples/objects.csv out/demo

test: $(VENV)/.dev ## Run the test suite (CPU, no downloads)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope $(ARGS)

clients: $(CLIENTS) ## Install the clients of other projects that tests/clients runs (Python's and Node's)

soak: $(VENV)/.dev ## Run the long tests
	$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)

bench: $(VENV)/.dev ## Run the benchmarks; each writes its JSON to benchmarks/results/
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done

gpu: $(VENV)/.dev ## Measure on this machine's GPU, in at most 10 minutes
	$(BIN)/python -m benchmarks.gpu

lint: $(VENV)/.dev ## Check style, types and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs ## Build the documentation into site/ and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.dev ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove caches, builds and the demo's images (the .venv stays)
	rm -rf build dist site out/demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# A stamp is written last, so an interrupted installation is repeated. torch is installed first, by its pin; otherwise pip may
# choose a newer CUDA build of several GB.
$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("zimage-ray needs Python 3.11 or newer; \
	$(PYTHON) is %s. Choose another: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.run
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	touch $@

# In an environment of its own: what other projects' clients depend on must not move what is pinned here.
$(CLIENTS_VENV)/.done: tests/clients/python/requirements.txt
	$(PYTHON) -m venv $(CLIENTS_VENV)
	$(CLIENTS_VENV)/bin/python -m pip install -q -r $<
	touch $@

tests/clients/node/node_modules/.package-lock.json: tests/clients/node/package-lock.json
	cd tests/clients/node && npm ci --no-audit --no-fund
