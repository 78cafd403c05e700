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

# On a quiet machine; SmolLM2 has to be there (latentreason models smollm2), the peer steering-vectors where PEERS says (benchmarks/vectors.py).
BENCH := artifacts/results/benchmarks
SMOL  := artifacts/models/smollm2
bench: $(STAMP)  ## every benchmark against its peers, as docs/benchmarks.md shows them (40 minutes)
	$(BIN)/python -m benchmarks.sampling --out $(BENCH)/sampling.json
	$(BIN)/python -m benchmarks.activations --model $(SMOL) --repeats 21 --out $(BENCH)/activations.json
	$(BIN)/python -m benchmarks.activations --model $(SMOL) --repeats 21 --attention sdpa --out $(BENCH)/activations_sdpa.json
	$(BIN)/python -m benchmarks.activations --model $(SMOL) --repeats 21 --kernels torch --out $(BENCH)/activations_torch.json
	PYTHONPATH=$(PEERS) $(BIN)/python -m benchmarks.vectors --model $(SMOL) --pairs 32 --out $(BENCH)/vectors.json
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.studies --out $(BENCH)/studies.json
	$(BIN)/python -m benchmarks.hybrid --out $(BENCH)/hybrid.json
	$(BIN)/python -m benchmarks.hybrid --pair $(SMOL) --out $(BENCH)/hybrid_smollm2.json
