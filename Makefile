# Two commands: `make train` and `make test`. Both make the environment first if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test test-fast lint types wheel clean help

help:
	@echo "make train      train a small language model on this machine's Python standard library (minutes on two cores)"
	@echo "make test       run every test"
	@echo "make test-fast  run the quick tests only (pytest -q)"
	@echo "make lint       ruff and mypy --strict"

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	# torch first and by exact version, so that its CPU build is taken where there is one
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(STAMP)

train: $(STAMP)
	$(BIN)/lmm-train experiment=start_here

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slurm"

test-fast: $(STAMP)
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
