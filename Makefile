# Two commands on a machine with only Python >= 3.11 and make: `make demo` and `make test`. Both set up a .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/

.PHONY: setup demo test test-slow check format lock

setup: $(VENV)/.ready

# The exact, hash-checked set of packages, then detrkit itself; done again only when one of these files changes.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "detrkit needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(RUN)python --require-hashes -r requirements.lock && \
	  uv pip install --quiet --python $(RUN)python --no-deps --no-build-isolation -e .; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(RUN)python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(RUN)python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

demo: setup
	$(RUN)detrkit demo

test: setup
	$(RUN)python -m pytest -m "not slow"

test-slow: setup
	$(RUN)python -m pytest -m slow

check: setup
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports

format: setup
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

# Renews the exact set of packages; needs uv.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock
