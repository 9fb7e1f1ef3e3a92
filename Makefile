# Everything below needs Python ≥ 3.10 with its venv module; the rest is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

MAKEFLAGS += --jobs=2 # linter and both languages beside each other

.PHONY: help test test-long demo lint format docs docs-en docs-zh bench bench-check recipe clean

help:
	@echo "make demo    noise a photograph, train on digits, sample new ones: open demo/index.html"
	@echo "make test    linter, type checker, tests, examples in the documentation, the site"
	@echo "make test-long  the tests of several processes that are left out there"
	@echo "make docs    this documentation as a site, in English and Chinese: docs/_build/html/index.html"
	@echo "make lint    linter and type checker alone"
	@echo "make format  lay the code out as the linter wants it"
	@echo "make bench   measure this library beside its peers and the machine's floor: docs/benchmarks/"
	@echo "make bench-check  measure again; fail where a recorded ratio was lost"
	@echo "make recipe NAME=digits  train, score and compare with the record: recipes/README.md"
	@echo "make clean   remove what the others made"

# One process a core, each computing in one thread.
test: lint docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "not long"

test-long: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m long tests

# Sphinx once a language; then every link of the site is followed.
SPHINX = $(BIN)/python -m sphinx -W --keep-going --quiet -c docs
docs: docs-en docs-zh
	cp docs/index.html docs/_build/html/index.html
	$(BIN)/python docs/_site/check.py docs/_build/html

docs-en docs-zh: docs-%: .venv/installed
	rm -rf docs/_build/doctrees/$* docs/_build/html/$*
	$(SPHINX) -D language=$(subst zh,zh_CN,$*) -d docs/_build/doctrees/$* docs/$* docs/_build/html/$*

demo: .venv/installed
	$(BIN)/alphabar demo --out demo

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Twenty minutes on two cores that do nothing else; ARGS="noising steps --budget 1" for less.
bench: .venv/peers
	$(BIN)/python -m benchmarks $(ARGS)

bench-check: .venv/peers
	$(BIN)/python -m benchmarks --check $(ARGS)

# Without what they depend on: torchvision would replace torch by a build of several GB.
.venv/peers: .venv/installed
	$(BIN)/pip install --quiet --no-deps azula==0.11.1 einops==0.8.2
	touch $@

.venv/installed: pyproject.toml constraints.txt build_native.py $(wildcard src/alphabar/kernels/*.cpp src/alphabar/kernels/*.h)
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("alphabar needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps torch-fidelity==0.4.0 # its torchvision would replace torch
	touch $@

recipe: .venv/installed
	$(BIN)/python -m recipes $(NAME) $(if $(DATA),--data $(DATA))

clean:
	rm -rf .venv demo docs/_build docs/*/_pictures .mypy_cache .pytest_cache .ruff_cache .hypothesis
