# Two commands on a machine with only Python >= 3.11 and make: `make demo` and `make test`. Both set up a .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/

.PHONY: setup demo test test-times test-slow test-processor check site format variants notebook lock

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

# Two processes with one thread each do more than one process with two. A process takes up to 4 GB.
WORKERS ?= 2
test: setup
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal

# Processor seconds of every file and of the slowest tests, to see what is worth making faster: `make test-times FILES=tests/commands`.
FILES ?= tests
test-times: setup
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(RUN)python -m pytest -q -m "not slow" -p cpu_seconds $(FILES)

test-slow: setup
	$(RUN)python -m pytest -m slow

# Processors round differently: they add in other orders, fuse other products, share work out among other numbers of threads. A test that
# such rounding decides passes on one computer and fails on the next. So what compares numbers, as far as it is fast, runs once more the
# way the plainest processor would compute it, and with two threads.
PROCESSOR := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2
NUMERIC := tests/layers tests/losses tests/matching tests/models tests/necks tests/parity/test_transformers*.py \
  tests/prediction tests/evaluation/test_runner.py
NOT_NUMERIC := --ignore=tests/layers/sampling/test_triton_kernels.py --ignore=tests/layers/sampling/test_numba_kernels.py
test-processor: setup
	$(PROCESSOR) $(RUN)python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal $(NUMERIC) $(NOT_NUMERIC)

check: setup
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports
	$(RUN)python .ci/measure_source.py

# The documents and the API as a site in build/site, which can be read from disk; a link that leads nowhere is an error.
# Not --quiet, which would silence the warnings that --strict counts.
site: setup
	NO_MKDOCS_2_WARNING=1 $(RUN)python -m mkdocs build --strict

format: setup
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

# Runs the notebook in docs anew and stores what its cells show.
notebook: setup
	$(RUN)python tests/notebook_runs.py docs/first_detector.ipynb

# The list of variants that is read without loading PyTorch.
variants: setup
	$(RUN)python -m detrkit.models.listing

# Renews the exact set of packages; needs uv.
lock:
	uv pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock
