# Two commands: `make demo` installs and trains the demonstration, `make test` installs and checks everything.
# Both can be repeated: what is installed stays, and a run goes on where it stopped.
PYTHON ?= python3
VENV := .venv
INSTALL := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/corl train unified --out runs/demo --resume

test: lint
	$(VENV)/bin/pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("corl needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing corl into $(VENV); the first time takes some minutes."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing corl and its tools into $(VENV); the first time takes some minutes."
	$(INSTALL) --editable ".[dev,eval]"
	@touch $(VENV)/.installed $@
