# Two commands set everything up on a machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BOOK := examples/anne_of_green_gables.txt

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: env
env: $(READY)  ## Make the environment in .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

.PHONY: demo
demo: $(READY)  ## Answer a question about a whole book, beside the full-context way
	$(BIN)/e2llm ask $(BOOK) "Who is Anne's best friend?" --compare

.PHONY: test
test: $(READY)  ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: lint
lint: $(READY)  ## Check style, formatting and types
	$(BIN)/ruff check src tests examples recipes
	$(BIN)/ruff format --check src tests examples recipes
	$(BIN)/mypy

.PHONY: format
format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix src tests examples recipes
	$(BIN)/ruff format src tests examples recipes

.PHONY: mini-data
mini-data: $(READY)  ## Make the records that the embedded model trains on: make mini-data RAW=... DATA=...
	$(BIN)/python recipes/prepare_mini.py $(RAW) $(DATA)

.PHONY: mini
mini: $(READY)  ## Train the embedded model at CPU size, resuming what is there: make mini DATA=...
	$(BIN)/e2llm train recipes/mini-cpu.yaml --data $(DATA) --resume

.PHONY: clean
clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
