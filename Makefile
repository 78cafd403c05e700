# Every target sets up what it needs; setting up again does nothing until pyproject.toml or constraints.txt changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test lint figures organisms notebooks bench

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## the virtual environment .venv with every extra, JupyterLab included (PYTHON=python3.12 make setup chooses one)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[tasks,train,gguf,notebooks,docs,dev]'
	touch $(STAMP)

reproduce: $(STAMP)  ## the main result on the built-in pair, computed afresh: tables, figures, report
	$(BIN)/latentreason reproduce $(ARGS)

# A file stays in one process, so that what its tests share is made once; tests/conftest.py hands out the slow files first.
test: $(STAMP)  ## the tests, in two processes (ARGS="-k layers" for some of them, ARGS="-n 0" for one process)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)  ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

figures: $(STAMP)  ## the committed figures again, from the committed results
	$(BIN)/latentreason figures $(ARGS)

organisms: $(STAMP)  ## train the built-in pair again (ARGS="--seed 1")
	$(BIN)/latentreason organisms train activation $(ARGS)

notebooks: $(STAMP)  ## bring each notebook in step with its script and execute it
	for script in notebooks/*.py; do OMP_WAIT_POLICY=PASSIVE $(BIN)/jupytext --to ipynb --execute "$$script" || exit 1; done

bench: $(STAMP)  ## tokens per second of sampling and of hybrid decoding, against transformers' generate
	$(BIN)/python -m benchmarks.sampling $(ARGS)
