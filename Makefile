PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TL4 := .venv-tl4
TL4_TESTS := activations architectures attribution bridge checkpoints conversions devices forks integrated lesions \
	loading locality models relp

.PHONY: run test test-slow test-tl4 lint docs bench notebook
.DELETE_ON_ERROR:

run: $(READY)
	$(BIN)/posneurons run --out runs/demo

# Two processes of one thread each: two threads that share busy cores wait for each other.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# What rests on the model, with transformer-lens 4, which has the TransformerBridge alone: in an environment of its own.
test-tl4: $(TL4)/.ready
	OMP_NUM_THREADS=1 $(TL4)/bin/python -m pytest --numprocesses 2 --dist loadfile $(TL4_TESTS:%=tests/test_%.py)

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check --no-cache .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy

docs: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python .docs/build.py build/docs

bench: $(READY)
	$(BIN)/python experiments/benchmark.py

notebook: $(READY)
	$(BIN)/jupyter lab notebooks

# torch goes first and by its exact version: an open range can pull several GB of CUDA packages.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,notebooks]'
	touch $@

# The package is installed without its dependencies, whose pin of transformer-lens is what is tried out here.
$(TL4)/.ready: pyproject.toml constraints.txt
	test -x $(TL4)/bin/python || $(PYTHON) -m venv $(TL4)
	grep -v '^transformer-lens==' constraints.txt > $(TL4)/constraints.txt
	$(TL4)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(TL4)/constraints.txt torch
	$(TL4)/bin/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
		print(*(each for each in p['dependencies'] if not each.startswith('transformer-lens')), sep='\n')" \
		> $(TL4)/requirements.txt
	$(TL4)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(TL4)/constraints.txt \
		--requirement $(TL4)/requirements.txt 'transformer-lens>=4,<5' beartype hypothesis pytest pytest-xdist
	$(TL4)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
