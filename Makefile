# `make demo` and `make test` each set themselves up in .venv from a bare clone; a second time that is quick.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check setup clean

demo: setup
	$(BIN)/preftune demo --out demo-study

test: setup
	$(BIN)/python -m pytest -q

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
