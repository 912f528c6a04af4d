# `make demo` and `make test` each set themselves up in .venv from a bare clone; a second time that is quick.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Tests of one file share what is costly to make, so a file stays with one process.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test fuzz check setup clean

demo: setup
	$(BIN)/preftune demo --out demo-study

test: setup
	$(BIN)/python -m pytest -q -rs $(PARALLEL)

# Every property on FUZZ times as many examples, drawn anew at each call.
FUZZ ?= 20
fuzz: setup
	FUZZ=$(FUZZ) $(BIN)/python -m pytest -q -m hypothesis $(PARALLEL)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)

# The stamp comes last, so an interrupted set-up starts again here; what pip had already installed stays.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
